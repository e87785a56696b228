"""Reads a tool call that a model writes as one JSON object, and several such calls in a row."""

from __future__ import annotations

import json
from collections.abc import Callable

from orchestrator.rendering.output_parsers.json_end import JsonEnd
from orchestrator.rendering.output_parsers.markers import SPACE, past, stands
from orchestrator.rendering.output_parsers.parts import Parts

MAX_NAME_CHARACTERS = 256
"""An object with a longer name or key is not a call. Nothing can be returned before the name."""

_ARGUMENTS = ("arguments", "parameters")


class CallObject:
    """One call: `name` and `arguments` (or `parameters`), in either order; other keys are skipped.

    Reads from after the opening brace. The call begins when its name is known, and its arguments
    are passed on as they come. Arguments inside a JSON string are passed on when it is complete.
    With `names`, an object with any other name is not a call.
    """

    def __init__(self, parts: Parts, names: frozenset[str] | None = None) -> None:
        self._parts = parts
        self._names = names
        self._step: Callable[[str, int], int] = self._read_before_key
        self._end = JsonEnd()
        self._pieces: list[str] = []
        self._room = 0
        self._key = ""
        self._early: list[str] = []
        self._begun = False
        self._has_arguments = False
        self._in_quotes = False
        self.over = False
        self.failed = False

    def feed(self, text: str, at: int) -> int:
        """Reads `text` from `at` on; returns the position up to which it was read."""
        while at < len(text) and not self.over and not self.failed:
            at = self._step(text, at)
        return at

    def finish(self, *, cut: bool) -> None:
        """Ends the call with what was read. `cut` means that the model had not finished."""
        if not self._begun:
            self.failed = True
            return
        if self._in_quotes:
            self._give_quoted('"')
        self._end_call(whole=not cut)

    def _read_before_key(self, text: str, at: int) -> int:
        at = past(text, at, SPACE + ",")
        if at == len(text):
            return at
        if text[at] == "}":
            if self._begun:
                self._end_call(whole=True)
            self.over, self.failed = self._begun, not self._begun
            return at + 1
        if text[at] != '"':
            self.failed = True
            return at
        self._begin_value(self._read_key)
        return at

    def _read_key(self, text: str, at: int) -> int:
        at, key = self._read_short_string(text, at)
        if key is not None:
            self._key = key
            self._step = self._read_colon
        return at

    def _read_colon(self, text: str, at: int) -> int:
        at = past(text, at, SPACE)
        if at < len(text):
            if text[at] != ":":
                self.failed = True
                return at
            self._step = self._read_before_value
            at += 1
        return at

    def _read_before_value(self, text: str, at: int) -> int:
        at = past(text, at, SPACE)
        if at == len(text):
            return at
        letter = text[at]
        is_name = self._key == "name" and not self._begun
        if letter in ",}]" or (is_name and letter != '"'):
            self.failed = True
        elif is_name:
            self._begin_value(self._read_name)
        elif self._key in _ARGUMENTS and not self._has_arguments:
            self._has_arguments = True
            self._in_quotes = letter == '"'
            self._begin_value(self._read_arguments)
        else:
            self._begin_value(self._skip_value)
        return at

    def _begin_value(self, step: Callable[[str, int], int]) -> None:
        self._end = JsonEnd()
        self._pieces = []
        self._room = MAX_NAME_CHARACTERS
        self._step = step

    def _read_name(self, text: str, at: int) -> int:
        at, name = self._read_short_string(text, at)
        if name is None:
            return at
        if not name or (self._names is not None and name not in self._names):
            self.failed = True
            return at
        self._parts.begin_call(name)
        self._begun = True
        self._parts.arguments("".join(self._early))
        self._step = self._read_before_key
        return at

    def _read_short_string(self, text: str, at: int) -> tuple[int, str | None]:
        """The position up to which it was read, and the string once it is complete."""
        until = min(len(text), at + self._room)
        end = self._end.find(text, at, until)
        place = until if end is None else end
        self._pieces.append(text[at:place])
        self._room -= place - at
        if end is None:
            self.failed = not self._room
            return place, None
        string = _string("".join(self._pieces))
        self.failed = string is None
        return place, string

    def _read_arguments(self, text: str, at: int) -> int:
        end = self._end.find(text, at)
        place = len(text) if end is None else end
        if self._in_quotes:
            self._pieces.append(text[at:place])
        else:
            self._give_arguments(text[at:place])
        if end is not None:
            if self._in_quotes:
                self._give_quoted("")
            self._step = self._read_before_key
        return place

    def _skip_value(self, text: str, at: int) -> int:
        end = self._end.find(text, at)
        if end is None:
            return len(text)
        self._step = self._read_before_key
        return end

    def _give_arguments(self, text: str) -> None:
        if self._begun:
            self._parts.arguments(text)
        else:
            self._early.append(text)

    def _give_quoted(self, closing: str) -> None:
        """Passes on arguments that came as a string; if it cannot be decoded, the raw text."""
        self._in_quotes = False
        raw = "".join(self._pieces)
        string = _string(raw + closing)
        self._give_arguments(raw if string is None else string)

    def _end_call(self, *, whole: bool) -> None:
        if whole and not self._has_arguments:
            self._parts.arguments("{}")
        self._parts.end_call()


class CallObjects:
    """Calls as JSON objects after an opening marker: one, several, or a list of them.

    Finished at `closing` or, if that is empty or missing, at the first character that is not part
    of a call. Text that was not read yet may be passed again with more text after it.
    """

    def __init__(
        self, parts: Parts, *, closing: str = "", names: frozenset[str] | None = None
    ) -> None:
        self._parts = parts
        self._closing = closing
        self._names = names
        self._call: CallObject | None = None
        self._calls = 0
        self.over = False
        self.failed = False

    @property
    def clean(self) -> bool:
        """Whether at least one call was read, and no call is open."""
        return self._call is None and self._calls > 0

    def feed(self, text: str, at: int) -> int:
        """Reads on from `at`, at most to the end of one call."""
        call = self._call
        if call is None:
            return self._read_between(text, at)
        at = call.feed(text, at)
        self.failed = call.failed
        if call.over:
            self._call = None
            self._calls += 1
        return at

    def finish(self, *, cut: bool) -> None:
        """Ends the open call. `cut` means that the model had not finished."""
        if self._call is None:
            self.failed = not self._calls
            return
        self._call.finish(cut=cut)
        self.failed = self._call.failed

    def _read_between(self, text: str, at: int) -> int:
        # An extra brace after a call is a mistake of the model and not text.
        start, at = at, past(text, at, SPACE + ("[],;}" if self._calls else "["))
        if at == len(text) or at > start:
            return at
        if text[at] == "{":
            self._call = CallObject(self._parts, self._names)
            return at + 1
        closes = bool(self._closing and self._calls) and stands(text, at, self._closing)
        if closes is None:
            return at
        self.over, self.failed = self._calls > 0, not self._calls
        return at + len(self._closing) if closes else at


def _string(raw: str) -> str | None:
    """The text of a JSON string, or `None` if it is invalid or cannot be encoded."""
    try:
        value = json.loads(raw)
        value.encode()
    except (ValueError, AttributeError):
        return None
    return str(value)
