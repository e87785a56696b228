"""TensorRT engines: settings, packing of texts, and the embedder."""
