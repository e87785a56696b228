"""Matches stop strings in growing text."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text through up to the first stop string, which is never part of the result.

    The stop string that is complete first counts; if several are complete at the same character,
    the longest. So the result does not depend on how the text is cut into pieces. Text that may be
    the beginning of a stop string is held back. O(1) per character and stop string (Knuth, Morris,
    Pratt).
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(sorted(set(stops), key=len, reverse=True))
        self._borders = tuple(map(_borders, self._stops))
        self._matched_lengths = [0] * len(self._stops)
        self._first_letters = frozenset(stop[0] for stop in self._stops)
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the text."""

    def feed(self, text: str) -> str:
        """Returns the text that now certainly belongs to the answer."""
        if self.matched is not None:
            return ""
        if not self._held and self._first_letters.isdisjoint(text):
            return text
        before = len(self._held)
        whole = self._held + text
        for position in range(before, len(whole)):
            stop = self._step(whole[position])
            if stop is not None:
                self.matched = stop
                self._held = ""
                return whole[: position + 1 - len(stop)]
        certain = len(whole) - max(self._matched_lengths)
        self._held = whole[certain:]
        return whole[:certain]

    def flush(self) -> str:
        """Returns the text that was held back, at the end without a stop string."""
        held, self._held = self._held, ""
        return held

    def _step(self, letter: str) -> str | None:
        """The stop string that `letter` completes, if any."""
        found: str | None = None
        for index, stop in enumerate(self._stops):
            length = self._matched_lengths[index]
            while length and stop[length] != letter:
                length = self._borders[index][length - 1]
            if stop[length] == letter:
                length += 1
            if length == len(stop):
                found = found or stop
                length = self._borders[index][length - 1]
            self._matched_lengths[index] = length
        return found


def _borders(text: str) -> list[int]:
    """For every prefix of `text`, the length of its longest proper prefix that is its suffix."""
    borders = [0] * len(text)
    length = 0
    for position in range(1, len(text)):
        while length and text[position] != text[length]:
            length = borders[length - 1]
        if text[position] == text[length]:
            length += 1
        borders[position] = length
    return borders
