"""Shared by our Triton backends, for any engine: tensors in, responses out."""
