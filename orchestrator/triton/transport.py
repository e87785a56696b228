"""How a call reaches Triton: one protocol, and what all its implementations share.

Every call has one request message. Its answers are passed on still serialised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

SERVICE = "/inference.GRPCInferenceService/"

OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, NOT_FOUND, PERMISSION_DENIED = 0, 1, 2, 4, 5, 7
INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 13, 14, 16
"""Status codes of gRPC."""

Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended, as a gRPC status."""

    code: int
    details: str = ""


class RpcFailed(Exception):
    """A call that did not end with OK."""

    def __init__(self, status: Status) -> None:
        super().__init__(f"{status.code}: {status.details}")
        self.status = status


class Call(Protocol):
    """A call in flight."""

    def cancel(self) -> None:
        """Cuts the call. It ends with CANCELLED, unless it has already ended."""


class Transport(Protocol):
    """A connection to one Triton, made when it is needed and made again when it is lost."""

    def start(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Metadata,
        timeout_s: float,
        on_message: Callable[[bytes], None],
        on_end: Callable[[Status], None],
    ) -> Call:
        """Starts a call of `SERVICE`. Neither function is called before this returns.

        `on_end` is called once, after the last message.
        """

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata, timeout_s: float
    ) -> bytes:
        """Returns the single answer of a call. Raises: RpcFailed."""

    async def close(self) -> None:
        """Ends what is in flight, and the connection."""
