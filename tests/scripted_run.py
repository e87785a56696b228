"""A generation whose events are given beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.backends.protocol import Run
from orchestrator.core.events import GenerationEvent, PartDelta, Usage


class ScriptedRun(Run):
    """Gives `events` one by one, then raises `error` if there is one, or waits for ever."""

    def __init__(
        self,
        events: Sequence[GenerationEvent],
        *,
        error: BaseException | None = None,
        hangs: bool = False,
        produced: Usage | None = None,
        so_far: Usage | None = None,
        answered: int | None = None,
        dropped: int = 0,
        on_end: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`answered` is how many deltas were taken, unless it is given. `on_end` is called when all
        events are given, `on_stop` at the first `stop`.
        """
        self._events = iter(events)
        self._error = error
        self._hangs = hangs
        self._produced = produced or Usage(3, 2)
        self._so_far = so_far or self._produced
        self._answered = answered
        self._deltas = 0
        self._dropped = dropped
        self._on_end = on_end
        self._on_stop = on_stop
        self._stopped = False
        self._on_ready: Callable[[], None] = lambda: None

    def take(self) -> list[GenerationEvent]:
        assert not self.over
        event = next(self._events, None)
        if event is not None:
            self._deltas += isinstance(event, PartDelta)
            self._on_ready()
            return [event]
        self._on_end()
        if self._error is not None:
            raise self._error
        self.over = not self._hangs
        return []

    def listen(self, on_ready: Callable[[], None]) -> None:
        self._on_ready = on_ready

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._on_stop()

    def so_far(self) -> Usage:
        return self._so_far

    @property
    def answered(self) -> int:
        return self._deltas if self._answered is None else self._answered

    @property
    def dropped(self) -> int:
        return self._dropped

    @property
    def has_ended(self) -> bool:
        return True

    async def produced(self) -> Usage:
        return self._produced
