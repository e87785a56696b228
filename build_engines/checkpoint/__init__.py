"""Checkpoints: their files, families, tokenizers, and the hub."""
