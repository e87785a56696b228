"""Finds markers in text that arrives in pieces."""

from __future__ import annotations

import re


class Markers:
    """A few fixed texts; none of them is the beginning of another. Immutable."""

    def __init__(self, *markers: str) -> None:
        self._pattern = re.compile("|".join(map(re.escape, markers)))
        self._beginnings = frozenset(
            marker[:length] for marker in markers for length in range(1, len(marker))
        )
        self._longest = max(map(len, markers))
        self._letters = frozenset(marker[0] for marker in markers)

    def search(self, text: str, at: int = 0) -> tuple[int, str]:
        """The position and text of the first marker from `at` on.

        If there is none, the text is empty, and the position is that of an incomplete marker at
        the end of `text`, or the end of `text`.
        """
        if (found := self._pattern.search(text, at)) is not None:
            return found.start(), found[0]
        first = max(at, len(text) - self._longest + 1)
        if self._letters.isdisjoint(text[first:]):
            return len(text), ""
        for start in range(first, len(text)):
            if text[start] in self._letters and text[start:] in self._beginnings:
                return start, ""
        return len(text), ""


def stands(text: str, at: int, marker: str) -> bool | None:
    """Whether `text` has `marker` at `at`; `None` while `text` is too short to decide."""
    here = text[at : at + len(marker)]
    if len(here) < len(marker) and marker.startswith(here):
        return None
    return here == marker


def past(text: str, at: int, skipped: str) -> int:
    """The position of the first character from `at` on that is not in `skipped`."""
    while at < len(text) and text[at] in skipped:
        at += 1
    return at


SPACE = " \t\r\n"
