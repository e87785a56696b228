from tests.wire.harness import service

__all__ = ["service"]
