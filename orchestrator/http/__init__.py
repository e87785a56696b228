"""The HTTP layer that all dialects share."""
