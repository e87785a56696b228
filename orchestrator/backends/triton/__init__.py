"""The backend that asks Triton."""
