"""The interface to the client's connection while its request is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from orchestrator.http.errors import Headers

CONNECTION = "orchestrator.connection"
"""The key under which our own server puts a `Connection` into the scope of a request."""
CLIENT_LEFT = 499
"""The status in the log of a request whose client disconnected early. Source: nginx."""


class Connection(Protocol):
    """What our own server offers in addition to ASGI. Header names are in lower case."""

    def whole_body(self) -> bytes | None:
        """The body, if all of it has arrived and no interim reply is due. To be called once."""

    def on_left(self, call: Callable[[], None] | None) -> None:
        """Sets a callback for a client that disconnects before its reply is complete.

        It is called at once if the client has already disconnected; `None` removes it.
        """

    def reply(self, status: int, headers: Headers, body: bytes) -> Awaitable[None]:
        """Sends a whole reply. `headers` must hold the length of `body`. Raises: RuntimeError."""

    def piece(self, piece: bytes) -> Awaitable[None]:
        """Sends a piece of a body that has started; more follows."""
