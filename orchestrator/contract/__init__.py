"""What the builder and the server agree on."""
