"""TensorRT-LLM's PyTorch engine behind the tensors of its C++ one."""
