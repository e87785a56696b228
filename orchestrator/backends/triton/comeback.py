"""Calls that wait for a model whose engine is being restarted, instead of failing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.backends.triton.placement import Placement
from orchestrator.core.errors import ModelUnavailable, Overloaded
from orchestrator.core.value import value
from orchestrator.triton.errors import unavailable

_NOTICED_WITHIN_S = 3.0
"""How long the model watch may take to notice an outage that a call has met."""
_LOOK_S = 0.5
"""How often a waiting call checks whether the model may still come: a self-test may have failed."""


@value
class Outage:
    """The error of a call that began in the `term` of its model's placement."""

    error: ModelUnavailable
    term: int


class WaitingRoom:
    """The calls of one worker that wait for a model. Not thread-safe: for the event loop.

    Calls wait for a model until `Rules.wait_s` after it was lost. Later in the outage, calls fail
    at once.
    """

    def __init__(self, most: int) -> None:
        """At most `most` calls wait, and at most half of them for one owner; 0 allows none."""
        self._most = most
        self._most_each = max(1, most // 2)
        self._waiting: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Number of calls that wait now."""
        return self._waiting.total()

    async def wait(self, placement: Placement, owner: str, met: Outage | None = None) -> None:
        """Returns when the model of `placement` is served; at once if it is served now.

        After a call that has `met` an outage, this waits for the next admission of the model, even
        if the model watch has not noticed the outage yet.
        Raises: ModelUnavailable where the model does not come back in time, or too many calls wait.
        """
        if met is None and placement.ready:
            return
        now = asyncio.get_running_loop().time
        noticed_by = now() + _NOTICED_WITHIN_S
        with self._place(owner, met):
            while not placement.ready or (met is not None and placement.term == met.term):
                left_s = placement.awaited_s
                if placement.ready:
                    placement.doubt()
                    left_s = noticed_by - now()
                if left_s <= 0:
                    raise met.error if met is not None else unavailable()
                await placement.admission(min(left_s, _LOOK_S))

    @property
    def is_open(self) -> bool:
        """Whether calls may wait at all."""
        return bool(self._most)

    @contextmanager
    def _place(self, owner: str, met: Outage | None) -> Iterator[None]:
        if self.count >= self._most or self._waiting[owner] >= self._most_each:
            raise met.error if met is not None else unavailable()
        self._waiting[owner] += 1
        try:
            yield
        finally:
            self._waiting[owner] -= 1
            if not self._waiting[owner]:
                del self._waiting[owner]


class Comeback:
    """Decides for one call whether and how long it waits in an outage of its model."""

    __slots__ = ("_owner", "_placement", "_room", "_term")

    def __init__(self, placement: Placement, room: WaitingRoom, owner: str) -> None:
        self._placement = placement
        self._room = room
        self._owner = owner
        self._term = placement.term

    @property
    def is_served(self) -> bool:
        """Whether the call is to be sent now: the model is ready, or waiting is of no use."""
        return self._placement.ready or not self._placement.awaited_s

    def begin(self) -> None:
        """To be called when the call is sent."""
        self._term = self._placement.term

    def is_open_after(self, error: ModelUnavailable) -> bool:
        """Whether a call that failed with `error` may wait and begin again."""
        may_wait = self._room.is_open and self._placement.may_be_awaited
        return may_wait and not isinstance(error, Overloaded)

    async def wait(self, error: ModelUnavailable | None = None) -> None:
        """Waits until the call can be sent, or sent again after `error`. See `WaitingRoom.wait`."""
        met = Outage(error, self._term) if error is not None else None
        await self._room.wait(self._placement, self._owner, met)
