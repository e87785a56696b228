"""Triton over gRPC, in token ids: the only importer of tritonclient."""
