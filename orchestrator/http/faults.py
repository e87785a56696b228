"""Errors of ours as the client sees them."""

from __future__ import annotations

from orchestrator.core.errors import (
    Internal,
    StoreUnavailable,
)


def internal_error() -> Internal:
    """What a caller is told of a fault of ours: nothing but that it is one."""
    return Internal("An internal error occurred. Give the request id when you report it.")


def store_unavailable() -> StoreUnavailable:
    """What a caller is told when the store is out of reach; the log says why."""
    return StoreUnavailable(
        "The store cannot be reached at the moment.", retry_after_s=1.0, retryable=True
    )
