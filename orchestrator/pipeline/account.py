"""Charges one run to the limits and records it in the books."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

from orchestrator.backends.protocol import Run
from orchestrator.books.usage_records import Books
from orchestrator.core.costs import Cost, Outcome
from orchestrator.pipeline.call_meter import Meter
from orchestrator.pipeline.routing import Route
from orchestrator.quota import Admission

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Run)


class Account(Generic[R]):
    """One run, and what its end is reported to: books, limits and meter."""

    __slots__ = (
        "_books",
        "_own",
        "_promised",
        "_route",
        "_whole",
        "admission",
        "is_read",
        "meter",
        "run",
    )

    def __init__(
        self,
        run: R,
        route: Route,
        admission: Admission,
        meter: Meter,
        books: Books,
        own: Callable[[Coroutine[None, None, None]], None],
        *,
        whole: bool,
    ) -> None:
        """`own` runs work that continues after the reader has closed the run.

        With `whole` the client sees either all of the answer or nothing.
        """
        self.run = run
        self.meter = meter
        self.admission = admission
        self.is_read = False
        """Whether its reader has taken any events."""
        self._whole = whole
        self._route = route
        self._books = books
        self._own = own
        self._promised: Outcome | None = None

    def promise(self, outcome: Outcome) -> None:
        """Writes a provisional record, used only if the process dies before the final one.

        Idempotent.
        """
        if outcome != self._promised:
            self._promised = outcome
            cost = self.cost(outcome)
            self._books.promise(self.meter.entry(self._route.backend.name, cost, outcome))

    def cost(self, outcome: Outcome) -> Cost:
        """What the run costs if it ends now."""
        return self.run.cost(outcome, sent=self.is_read and not self._whole)

    def headers(self) -> dict[str, str]:
        """The reply's headers about route and limits. Passes them to the meter as well."""
        route = self._route
        headers = {
            "x-op-route": route.backend.name,
            "x-op-model": route.model.id,
            **({"x-op-route-reason": route.reason} if route.reason else {}),
            **self.admission.headers,
        }
        self.meter.limits(headers)
        return headers

    async def close(self, outcome: Outcome) -> None:
        """Stops the engine, and settles when it has finished: at once, or in the background."""
        run, meter = self.run, self.meter
        run.stop()
        if outcome == "cancelled":
            meter.stop("cancelled")
        has_ended = run.has_ended
        try:
            if not has_ended:
                self.promise(outcome)
        finally:
            meter.ended(self.cost(outcome).usage, outcome)
            settling = self._settle(outcome)
            if has_ended:
                await settling
            else:
                self._own(settling)

    async def _settle(self, outcome: Outcome) -> None:
        """Charges and records what the run cost, when the engine has finished."""
        await self.run.ended()
        cost = self.cost(outcome)
        try:
            self.meter.settled(cost, outcome)
            # The books first: they are always available, the quota store may be unreachable.
            self._books.record(self.meter.entry(self._route.backend.name, cost, outcome))
        except Exception:
            if self._promised is None:
                # The reader has nothing yet, and must not get an answer without a record.
                raise
            logger.exception("a request could not be settled")
        finally:
            await self.admission.settle(cost.usage.total_tokens)
