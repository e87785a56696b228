"""Where the events of a generation are read from."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable

from orchestrator.core.events import GenerationEvent


def noop() -> None:
    """Told of news until somebody listens."""


class EventSource(ABC):
    """Events as they come, taken without waiting: what has come together is taken together.

    Between what brings news (a read of a socket) and who writes them out there is one wake-up,
    however many layers a token passes: all of them hand it on in `take`.
    """

    over = False
    """Whether the last event was taken."""
    _waiter: asyncio.Future[None] | None = None
    _is_heard = False
    _has_news = True

    @abstractmethod
    def take(self) -> list[GenerationEvent]:
        """The events since the last call, perhaps none.

        Where something is left after it, `on_ready` is called once more. Not to be called when it
        is `over`. Raises: GatewayError.
        """

    @abstractmethod
    def listen(self, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called from now on when there may be something to take; nobody else is.

        What had come before is not told of.
        """

    async def next(self) -> list[GenerationEvent]:
        """The next events, as soon as there are any; none after the last. Raises: GatewayError."""
        if not self._is_heard:
            self._is_heard = True
            self.listen(self._wake)
        while not self.over:
            if self._has_news:
                self._has_news = False
                if (events := self.take()) or self.over:
                    return events
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        return []

    async def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        """The events one by one, for whoever looks at each. Raises: GatewayError."""
        while events := await self.next():
            for event in events:
                yield event

    def _wake(self) -> None:
        self._has_news = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
