"""What clients see: one file per dialect, each schema, decode(), Encoder, routes in this order."""
