"""What answers a request. `protocol` is all that the pipeline knows of it."""
