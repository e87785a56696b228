"""Finds the end of a JSON value in text that arrives in pieces."""

from __future__ import annotations

import re

_IN_STRING = re.compile(r'["\\]')
_IN_CONTAINER = re.compile(r'["{}\[\]]')
_BEHIND_SCALAR = re.compile(r"[\s,}\]]")


class JsonEnd:
    """Follows one value by its strings and brackets only; does not check that it is valid JSON.

    One per value. The value begins with the first character of the text.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._begun = False

    def find(self, text: str, at: int, until: int | None = None) -> int | None:
        """Where the value ends in `text[at:until]`, or `None` if it continues after that."""
        until = len(text) if until is None else until
        while at < until:
            if self._escaped:
                self._escaped = False
                at += 1
            elif self._begun and not self._in_string and not self._depth:
                behind = _BEHIND_SCALAR.search(text, at, until)
                return None if behind is None else behind.start()
            else:
                place = self._next(text, at, until)
                if place is None:
                    return None
                at = place + 1
                if self._ends(text[place]):
                    return at
        return None

    def _next(self, text: str, at: int, until: int) -> int | None:
        """The position of the next character that has a meaning."""
        if not self._begun:
            return at
        pattern = _IN_STRING if self._in_string else _IN_CONTAINER
        found = pattern.search(text, at, until)
        return None if found is None else found.start()

    def _ends(self, letter: str) -> bool:
        """Reads `letter`; returns whether it is the last one of the value."""
        self._begun = True
        match letter:
            case "\\" if self._in_string:
                self._escaped = True
                return False
            case '"':
                self._in_string = not self._in_string
                return not self._in_string and not self._depth
            case "{" | "[":
                self._depth += 1
            case "}" | "]":
                self._depth -= 1
                return self._depth == 0
        return False
