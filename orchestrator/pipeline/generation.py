"""A running generation as its reader sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.backends.protocol import GenerationRun
from orchestrator.core.costs import Outcome
from orchestrator.core.event_source import EventSource, noop
from orchestrator.core.events import GenerationEvent, GenerationFinished, Usage
from orchestrator.pipeline.account import Account


class Generation(EventSource):
    """A generation whose first events have arrived. The reader must close it in any case."""

    def __init__(
        self,
        first: list[GenerationEvent],
        headers: Mapping[str, str],
        account: Account[GenerationRun],
    ) -> None:
        """The outcome is reported to `account`."""
        self.headers = headers
        self._first = first
        self._account = account
        self._outcome: Outcome = "cancelled"
        self._closed = False
        self._on_ready: Callable[[], None] = noop

    @property
    def usage(self) -> Usage:
        """What it has cost until now. If it ends early, only the books have the final cost."""
        return self._account.cost(self._outcome).usage

    def take(self) -> list[GenerationEvent]:
        """See `EventSource.take`."""
        events, self._first = self._first, []
        try:
            if events:
                self._account.is_read = True
                # The listener was not called for events that arrived since then.
                self._on_ready()
            else:
                events = self._account.run.take()
            if events:
                self._look(events)
        except Exception as error:
            self._fail(error)
            raise
        return events

    def listen(self, on_ready: Callable[[], None]) -> None:
        """See `EventSource.listen`."""
        self._on_ready = on_ready
        self._account.run.listen(on_ready)

    async def aclose(self, error: BaseException | None = None) -> None:
        """Stops the engine if it still runs, and settles what the generation cost. Idempotent.

        `error` is a fault of ours because of which the client does not get the rest of the answer.
        """
        if self._closed:
            return
        self._closed = True
        self.over = True
        if error is not None and self._outcome != "failed":
            self._fail(error)
        await self._account.close(self._outcome)

    def _fail(self, error: BaseException) -> None:
        self._outcome = "failed"
        self._account.meter.failed(error)
        self._account.promise("failed")

    def _look(self, events: list[GenerationEvent]) -> None:
        """Reports the events to the meter, and their end before the reader sees it."""
        meter, last = self._account.meter, events[-1]
        if meter.call.sampled:
            meter.watch(events)
        if isinstance(last, GenerationFinished):
            self._outcome, self.over = "ok", True
            meter.finished(last)
            self._account.promise("ok")
