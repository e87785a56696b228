"""TensorRT engines: planned, converted and built by TensorRT-LLM's own programs."""
