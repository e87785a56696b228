"""The steps of one request between a dialect and a backend."""
