"""Faults of the appliance as the client sees them."""

from __future__ import annotations

from orchestrator.core.errors import (
    Internal,
    StoreUnavailable,
)


def internal_error() -> Internal:
    """The error for a fault of the appliance. It gives the caller no details."""
    return Internal("An internal error occurred. Give the request id when you report it.")


def store_unavailable() -> StoreUnavailable:
    """The error for an unreachable store. The log has the cause."""
    return StoreUnavailable(
        "The store cannot be reached at the moment.", retry_after_s=1.0, retryable=True
    )
