"""A model repository whose models do what the prompt says, for the real tritonserver."""
