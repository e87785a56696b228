"""Mistral: `[TOOL_CALLS]` and a JSON list, or a name, optionally `[ARGS]`, and the arguments."""

from __future__ import annotations

import re

from orchestrator.rendering.output_parsers.call_object import MAX_NAME_CHARACTERS, CallObjects
from orchestrator.rendering.output_parsers.json_end import JsonEnd
from orchestrator.rendering.output_parsers.markers import SPACE, Markers, past, stands
from orchestrator.rendering.output_parsers.parts import Parts
from orchestrator.rendering.output_parsers.reader import Block

TOKENS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
RESULT_TOKENS = ("[TOOL_RESULTS]", "[/TOOL_RESULTS]")

_OPENINGS = Markers("[TOOL_CALLS]")
_WORD = re.compile(r"[\w.:/-]*")


class Mistral:
    """Reads both syntaxes, because the model family changed from one to the other."""

    openings = _OPENINGS

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def block(self, _opening: str) -> Block:
        """A list of calls, or one call by name."""
        return _MistralBlock(self._parts)

    def bare_block(self) -> Block | None:
        """None: a call needs its opening."""
        return None


class _MistralBlock:
    """The text after the opening; its first character decides between a list and a name."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._inner: CallObjects | _NamedCall | None = None
        self.over = False
        self.failed = False

    @property
    def clean(self) -> bool:
        return self._inner is not None and self._inner.clean

    def feed(self, text: str, at: int) -> int:
        if self._inner is None:
            at = past(text, at, SPACE)
            if at == len(text):
                return at
            listed = text[at] in "[{"
            self._inner = CallObjects(self._parts) if listed else _NamedCall(self._parts)
        at = self._inner.feed(text, at)
        self.over, self.failed = self._inner.over, self._inner.failed
        return at

    def finish(self, *, cut: bool) -> None:
        if self._inner is None:
            self.failed = True
            return
        self._inner.finish(cut=cut)
        self.failed = self._inner.failed


class _NamedCall:
    """`name[ARGS]{…}`, with or without `[ARGS]`, and with or without `[CALL_ID]…` before it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._name = ""
        self._room = MAX_NAME_CHARACTERS
        self._step = self._read_name
        self._end = JsonEnd()
        self.over = False
        self.failed = False

    @property
    def clean(self) -> bool:
        return self.over

    def feed(self, text: str, at: int) -> int:
        while at < len(text) and not self.over and not self.failed:
            step = self._step
            place = step(text, at)
            if place == at and self._step == step:
                break
            at = place
        return at

    def finish(self, *, cut: bool) -> None:
        if not self._parts.in_call:
            self.failed = True
            return
        if not cut and self._step == self._read_before_arguments:
            self._parts.arguments("{}")
        self._parts.end_call()

    def _read_name(self, text: str, at: int) -> int:
        place = self._past_word(text, at)
        self._name += text[at:place]
        if place < len(text):
            self._step = self._read_mark
            self.failed = self.failed or not self._name
        return place

    def _read_mark(self, text: str, at: int) -> int:
        at = past(text, at, SPACE)
        if at == len(text):
            return at
        has_id = stands(text, at, "[CALL_ID]")
        has_arguments = stands(text, at, "[ARGS]")
        if has_arguments or text[at] == "{":
            self._parts.begin_call(self._name)
            self._step = self._read_before_arguments
            return at + (len("[ARGS]") if has_arguments else 0)
        if has_id:
            self._room = MAX_NAME_CHARACTERS
            self._step = self._read_id
            return at + len("[CALL_ID]")
        self.failed = has_id is not None and has_arguments is not None
        return at

    def _read_id(self, text: str, at: int) -> int:
        """Skips the call's own id; clients get a different one."""
        place = self._past_word(text, at)
        if place < len(text):
            self._step = self._read_mark
        return place

    def _past_word(self, text: str, at: int) -> int:
        found = _WORD.match(text, at, at + self._room)
        place = at if found is None else found.end()
        self._room -= place - at
        self.failed = not self._room
        return place

    def _read_before_arguments(self, text: str, at: int) -> int:
        at = past(text, at, SPACE)
        if at < len(text):
            self._step = self._read_arguments
        return at

    def _read_arguments(self, text: str, at: int) -> int:
        end = self._end.find(text, at)
        place = len(text) if end is None else end
        self._parts.arguments(text[at:place])
        if end is not None:
            self._parts.end_call()
            self.over = True
        return place
