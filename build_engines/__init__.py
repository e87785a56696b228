"""Builds engines from checkpoints into a Triton model repository."""
