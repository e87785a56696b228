"""The backend that sends requests to Triton."""
