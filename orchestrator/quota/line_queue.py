"""The queue of lines to Redis, in order; it stays short however long Redis is unreachable."""

from __future__ import annotations

from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable

from orchestrator.quota.counters import Change, Counter, is_past_minute
from orchestrator.quota.token_journal import Line

_MAX_AT_ONCE = 200


class LineQueue:
    """First in, first out. A line that was sent may have arrived, so it is never changed."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self._lines = deque(lines)
        self._sent = 0

    def __len__(self) -> int:
        return len(self._lines)

    def append(self, line: Line) -> None:
        """Adds `line` at the end."""
        self._lines.append(line)

    def send(self) -> list[Line]:
        """Returns the oldest lines of one owner, marked as sent; they stay until `arrived`."""
        group: list[Line] = []
        for line in self._lines:
            if line.owner != self._lines[0].owner or len(group) == _MAX_AT_ONCE:
                break
            group.append(line)
        self._sent = max(self._sent, len(group))
        return group

    def arrived(self, count: int) -> None:
        """Removes the `count` oldest lines."""
        for _ in range(count):
            self._lines.popleft()
        self._sent = max(0, self._sent - count)

    def shorten(self, now: float) -> None:
        """Merges the unsent lines of each owner into one; drops minutes that ended long ago."""
        lines = list(self._lines)
        kept = lines[: self._sent]
        run: list[Line] = []
        for line in lines[self._sent :]:
            if run and run[0].owner != line.owner:
                kept += _merged(run, now)
                run = []
            run.append(line)
        kept += _merged(run, now)
        self._lines = deque(kept)


def _merged(lines: list[Line], now: float) -> list[Line]:
    used: Tally[Counter] = Tally()
    held: Tally[Counter] = Tally()
    for line in lines:
        for change in line.changes:
            if not is_past_minute(change.counter, now):
                used[change.counter] += change.used
                held[change.counter] += change.held
    changes = tuple(
        Change(counter, used[counter], held[counter])
        for counter in used
        if used[counter] or held[counter]
    )
    return [Line(lines[-1].owner, lines[-1].number, changes)] if changes else []
