"""The Triton model repository: versions, manifests, configuration."""
