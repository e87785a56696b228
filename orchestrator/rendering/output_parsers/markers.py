"""Finding markers in text that arrives in pieces."""

from __future__ import annotations

import re


class Markers:
    """A few fixed texts, none of them the beginning of another. Immutable."""

    def __init__(self, *markers: str) -> None:
        self._pattern = re.compile("|".join(map(re.escape, markers)))
        self._beginnings = frozenset(
            marker[:length] for marker in markers for length in range(1, len(marker))
        )
        self._longest = max(map(len, markers))
        self._letters = frozenset(marker[0] for marker in markers)

    def search(self, text: str, at: int = 0) -> tuple[int, str]:
        """Where the first marker behind `at` starts, and which it is.

        Without one it is where a marker's beginning at the very end of `text` starts (the end of
        `text` where there is none), and an empty string.
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
    """Whether `marker` stands at `at`, or `None` while `text` is too short to tell."""
    here = text[at : at + len(marker)]
    if len(here) < len(marker) and marker.startswith(here):
        return None
    return here == marker


def past(text: str, at: int, skipped: str) -> int:
    """The place of the first character from `at` on that is not among `skipped`."""
    while at < len(text) and text[at] in skipped:
        at += 1
    return at


SPACE = " \t\r\n"
