"""A generation at work as its reader sees it, and what it owes when it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping

from orchestrator.backends.protocol import Run
from orchestrator.books.usage_records import Books
from orchestrator.core.costs import Cost, Outcome, cost_of
from orchestrator.core.event_source import EventSource, noop
from orchestrator.core.events import GenerationEvent, GenerationFinished, Usage
from orchestrator.pipeline.call_meter import Meter
from orchestrator.pipeline.routing import Route
from orchestrator.quota import Admission

logger = logging.getLogger(__name__)


class Account:
    """What one generation owes to the books and the limits, from its start to its end."""

    __slots__ = (
        "_admission",
        "_books",
        "_own",
        "_promised",
        "_route",
        "_whole",
        "is_read",
        "meter",
        "run",
    )

    def __init__(
        self,
        run: Run,
        route: Route,
        admission: Admission,
        meter: Meter,
        books: Books,
        own: Callable[[Coroutine[None, None, None]], None],
        *,
        whole: bool,
    ) -> None:
        """`own` takes what goes on after the reader has gone.

        Of an answer that is `whole` the client sees nothing unless it sees all of it.
        """
        self.run = run
        self.meter = meter
        self.is_read = False
        """Whether its reader has taken any events."""
        self._whole = whole
        self._route = route
        self._admission = admission
        self._books = books
        self._own = own
        self._promised: Outcome | None = None

    def promise(self, outcome: Outcome) -> None:
        """Takes down what is known now, for the case that nothing more can be. Idempotent."""
        if outcome != self._promised:
            self._promised = outcome
            cost = self.cost(self.run.so_far(), outcome)
            self._books.promise(self.meter.entry(self._route.backend.name, cost, outcome))

    def cost(self, made: Usage, outcome: Outcome) -> Cost:
        """What it costs, with `made` of the answer, if this is its end."""
        run = self.run
        seen = 0 if self._whole or not self.is_read else run.answered
        return cost_of(made, outcome, seen=seen, dropped=run.dropped)

    async def close(self, outcome: Outcome) -> None:
        """Stops the engine's side, and settles once it has ended: now, where it has."""
        run, meter = self.run, self.meter
        run.stop()
        if outcome == "cancelled":
            meter.stop("cancelled")
        try:
            self.promise(outcome)
        finally:
            meter.ended(self.cost(run.so_far(), outcome).usage, outcome)
            settling = self._settle(outcome)
            if run.has_ended:
                await settling
            else:
                self._own(settling)

    async def _settle(self, outcome: Outcome) -> None:
        """Charges and records what it cost, once the engine's side has ended."""
        cost = self.cost(await self.run.produced(), outcome)
        try:
            self.meter.settled(cost, outcome)
            # The books first: they are always there, a quota may be out of reach.
            self._books.record(self.meter.entry(self._route.backend.name, cost, outcome))
        except Exception:
            # Its reader has the answer and can do nothing about it.
            logger.exception("a request could not be settled")
        finally:
            await self._admission.settle(cost.usage.total_tokens)


class Generation(EventSource):
    """A generation whose first events are there already. Read it to its end, and close it."""

    def __init__(
        self,
        first: list[GenerationEvent],
        headers: Mapping[str, str],
        account: Account,
    ) -> None:
        """`account` is told how it ends."""
        self.headers = headers
        self._first = first
        self._account = account
        self._outcome: Outcome = "cancelled"
        self._closed = False
        self._on_ready: Callable[[], None] = noop

    @property
    def usage(self) -> Usage:
        """What it has cost until now; of one that ends early the books have the last word."""
        account = self._account
        return account.cost(account.run.so_far(), self._outcome).usage

    def take(self) -> list[GenerationEvent]:
        """See `EventSource.take`."""
        events, self._first = self._first, []
        try:
            if events:
                self._account.is_read = True
                # What has come since then was told to nobody.
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
        """Stops the engine's side if it still runs, and settles what it cost. Idempotent.

        `error` is a fault of ours that keeps the rest of the answer, or its end, from its client.
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
        """Everything that has to be done before the reader knows of the end is done here."""
        meter, last = self._account.meter, events[-1]
        if meter.call.sampled:
            meter.watch(events)
        if isinstance(last, GenerationFinished):
            self._outcome, self.over = "ok", True
            meter.finished(last)
            self._account.promise("ok")
