"""Turns Gemma's own notation of a call, `call:f{city:<escape>Oslo<escape>}`, into JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from orchestrator.rendering.output_parsers.call_object import MAX_NAME_CHARACTERS
from orchestrator.rendering.output_parsers.json_end import JsonEnd
from orchestrator.rendering.output_parsers.markers import SPACE, Markers, past, stands
from orchestrator.rendering.output_parsers.parts import Parts

_WORD = re.compile(r"[\w.:/-]*")
_BEHIND_KEY = re.compile(r"[:}]")
_BEHIND_VALUE = re.compile(r"[,}\]]")
_PLAIN = re.compile(r"true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)


class NotedCall:
    """One call between an opening marker and `closing`; `quote` encloses texts.

    Keys and most values have no quotes. JSON is passed on while the notation is read.
    """

    def __init__(self, parts: Parts, *, quote: str, closing: str) -> None:
        self._parts = parts
        self._quote = quote
        self._quotes = Markers(quote)
        self._closing = closing
        self._step: Callable[[str, int], int] = self._read_prefix
        self._name = ""
        self._room = MAX_NAME_CHARACTERS
        self._open: list[str] = []
        self._is_first = True
        self._is_key = False
        self._bare: list[str] = []
        self._end = JsonEnd()
        self.clean = False
        self.over = False
        self.failed = False

    def feed(self, text: str, at: int) -> int:
        """Reads on from `at`, at most to the end of the call."""
        was_clean = self.clean
        while at < len(text) and not self.over and not self.failed and self.clean == was_clean:
            step = self._step
            place = step(text, at)
            if place == at and self._step == step:
                break
            at = place
        return at

    def finish(self, *, cut: bool) -> None:  # noqa: ARG002  # all blocks get it
        """Ends the call; keeps the arguments that were read."""
        if not self._parts.in_call:
            self.failed = not self.clean
            return
        if self._bare and not self._is_key:
            self._parts.arguments(_scalar("".join(self._bare)))
        self._parts.end_call()

    def _read_prefix(self, text: str, at: int) -> int:
        at = past(text, at, SPACE)
        called = stands(text, at, "call:")
        if called:
            self._step = self._read_name
            return at + len("call:")
        self.failed = called is not None
        return at

    def _read_name(self, text: str, at: int) -> int:
        found = _WORD.match(text, at, at + self._room)
        place = at if found is None else found.end()
        self._room -= place - at
        self._name += text[at:place]
        if not self._room:
            self.failed = True
        elif place < len(text):
            self._step = self._read_brace
            self.failed = not self._name
        return place

    def _read_brace(self, text: str, at: int) -> int:
        at = past(text, at, SPACE)
        if at < len(text):
            if text[at] == "{":
                self._parts.begin_call(self._name)
                self._begin("{")
                return at + 1
            self.failed = True
        return at

    def _read_item(self, text: str, at: int) -> int:
        """Reads the start of the next key or list value, or the end of the object or list."""
        at = past(text, at, SPACE + ",")
        if at == len(text):
            return at
        if text[at] in "}]":
            self._finish_container()
            return at + 1
        quoted = stands(text, at, self._quote)
        if quoted is None:
            return at
        if not self._is_first:
            self._parts.arguments(", ")
        self._is_first = False
        self._is_key = self._open[-1] == "{"
        return self._read_start(text, at)

    def _read_value(self, text: str, at: int) -> int:
        """Reads the start of the value after a key."""
        at = past(text, at, SPACE + ":")
        if at == len(text) or stands(text, at, self._quote) is None:
            return at
        if text[at] in ",}]":
            self._parts.arguments("null")
            self._step = self._read_item
            return at
        self._is_key = False
        return self._read_start(text, at)

    def _read_start(self, text: str, at: int) -> int:
        """Reads the start of a key or value whose first character has arrived."""
        if stands(text, at, self._quote):
            self._parts.arguments('"')
            self._step = self._read_quoted
            return at + len(self._quote)
        if text[at] == '"':
            self._end = JsonEnd()
            self._step = self._read_json_string
            return at
        if text[at] in "{[" and not self._is_key:
            self._begin(text[at])
            return at + 1
        self._bare = []
        self._step = self._read_bare
        return at

    def _read_quoted(self, text: str, at: int) -> int:
        start, quote = self._quotes.search(text, at)
        self._parts.arguments(json.dumps(text[at:start], ensure_ascii=False)[1:-1])
        if quote:
            self._parts.arguments('"')
            self._finish_scalar()
        return start + len(quote)

    def _read_json_string(self, text: str, at: int) -> int:
        end = self._end.find(text, at)
        place = len(text) if end is None else end
        self._parts.arguments(text[at:place])
        if end is not None:
            self._finish_scalar()
        return place

    def _read_bare(self, text: str, at: int) -> int:
        behind = (_BEHIND_KEY if self._is_key else _BEHIND_VALUE).search(text, at)
        place = len(text) if behind is None else behind.start()
        self._bare.append(text[at:place])
        if behind is not None:
            bare = "".join(self._bare).strip()
            self._bare = []
            self._parts.arguments(_quoted(bare) if self._is_key else _scalar(bare))
            self._finish_scalar()
        return place

    def _finish_scalar(self) -> None:
        self._step = self._read_item
        if self._is_key:
            self._parts.arguments(": ")
            self._step = self._read_value

    def _begin(self, bracket: str) -> None:
        self._parts.arguments(bracket)
        self._open.append(bracket)
        self._is_first = True
        self._step = self._read_item

    def _finish_container(self) -> None:
        """Writes the matching bracket, even if the model wrote the other one."""
        self._parts.arguments("}" if self._open.pop() == "{" else "]")
        self._is_first = False
        if not self._open:
            self._parts.end_call()
            self.clean = True
            self._step = self._read_closing

    def _read_closing(self, text: str, at: int) -> int:
        at = past(text, at, SPACE)
        if at == len(text):
            return at
        closes = stands(text, at, self._closing)
        self.over = closes is not None
        return at + len(self._closing) if closes else at


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _scalar(text: str) -> str:
    """Keeps numbers, `true`, `false` and `null`; makes anything else a string."""
    text = text.strip()
    return text if _PLAIN.fullmatch(text) else _quoted(text)
