"""The backends, which answer requests. The pipeline knows only their `protocol`."""
