"""What is known of the client at the other end while its request is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from orchestrator.http.errors import Headers

CONNECTION = "orchestrator.connection"
"""Where our own server puts a `Connection` into the scope of a request."""
CLIENT_LEFT = 499
"""The status in the log of a request whose client went away first. Source: nginx."""


class Connection(Protocol):
    """What our own server offers beside ASGI. Names of headers are in lower case."""

    def whole_body(self) -> bytes | None:
        """The body, if all of it is there and nothing is to be told first. To be taken once."""

    def on_left(self, call: Callable[[], None] | None) -> None:
        """`call` is called once if the client leaves before its reply is complete; or now."""

    def reply(self, status: int, headers: Headers, body: bytes) -> Awaitable[None]:
        """Sends a whole reply. `headers` tell the length of `body`. Raises: RuntimeError."""

    def piece(self, piece: bytes) -> Awaitable[None]:
        """Sends some of a body that has begun and goes on."""
