"""The interface through which the events of a generation are read."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable

from orchestrator.core.events import GenerationEvent


def noop() -> None:
    """Default callback while there is no listener."""


class EventSource(ABC):
    """Events as they arrive, taken without waiting. What arrived together is taken together.

    A token needs one wake-up between the read from a socket and the write to the client, however
    many layers it passes: each layer's `take` calls the `take` of the layer below.
    """

    over = False
    """Whether the last event was taken."""
    _waiter: asyncio.Future[None] | None = None
    _is_heard = False
    _has_news = True

    @abstractmethod
    def take(self) -> list[GenerationEvent]:
        """Returns the events since the last call, perhaps none.

        If more remain after it, `on_ready` is called again. Must not be called once `over` is
        true. Raises: GatewayError.
        """

    @abstractmethod
    def listen(self, on_ready: Callable[[], None]) -> None:
        """Replaces the listener: `on_ready` is called when there may be events to take.

        It is not called for events that arrived earlier.
        """

    async def next(self) -> list[GenerationEvent]:
        """Waits for the next events; an empty list after the last. Raises: GatewayError."""
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
        """Yields the events one by one. Raises: GatewayError."""
        while events := await self.next():
            for event in events:
                yield event

    def _wake(self) -> None:
        self._has_news = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
