"""TensorRT-LLM's PyTorch engine, with the tensors of its C++ engine."""
