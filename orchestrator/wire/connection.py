"""What is known of the client at the other end while its request is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from orchestrator.wire.errors import Headers

if TYPE_CHECKING:
    from orchestrator.wire.http import Exchange

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


class WhileConnected:
    """Cancels its own block when the client leaves; `left` tells that it did.

    To be entered when the body has been read. Nothing else may call `receive` meanwhile.
    """

    __slots__ = ("_cancelling", "_connection", "_exchange", "_task", "_watch", "left")

    def __init__(self, exchange: Exchange, connection: Connection | None) -> None:
        self._exchange = exchange
        self._connection = connection
        self._watch: asyncio.Task[None] | None = None
        self.left = False

    def __enter__(self) -> WhileConnected:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._connection is not None:
            self._connection.on_left(self._leave)
        else:
            self._watch = asyncio.create_task(self._wait_for_disconnect())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if self._connection is not None:
            self._connection.on_left(None)
        elif self._watch is not None:
            # Not waited for: it holds nothing, and ends at its next step.
            self._watch.cancel()
        if not self.left:
            return False
        # Our own cancellation is taken back; one from outside goes on. As `asyncio.timeout` does.
        if self._task.uncancel() > self._cancelling:
            return False
        self._exchange.status = CLIENT_LEFT
        return kind is not None and issubclass(kind, asyncio.CancelledError)

    def _leave(self) -> None:
        # Servers say the same of a reply that is complete, and then what is left to do is done.
        if not self._exchange.complete:
            self.left = self._exchange.left = True
            self._task.cancel()

    async def _wait_for_disconnect(self) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        self._leave()
