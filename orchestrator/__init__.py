"""The orchestrator: OpenAI-compatible calls in, Triton streaming requests out."""

__version__ = "0.1.0"
