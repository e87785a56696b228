"""Reads forced tool calls: the engine writes only JSON, and the whole answer is calls."""

from __future__ import annotations

from orchestrator.rendering.output_parsers.call_object import CallObjects
from orchestrator.rendering.output_parsers.json_end import JsonEnd
from orchestrator.rendering.output_parsers.markers import SPACE, past
from orchestrator.rendering.output_parsers.parts import Parts


class ForcedCallsReader:
    """Reads a JSON list of `{"name": …, "parameters": …}`. No part of it is text."""

    held = 0

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._calls = CallObjects(parts)

    def read(self, text: str) -> None:
        """Reads more of the list."""
        calls, at = self._calls, 0
        while at < len(text) and not (calls.over or calls.failed or self._parts.ended):
            at = calls.feed(text, at)

    def finish(self, *, cut: bool) -> None:
        """Ends the list. A call that was cut keeps what was read."""
        self._calls.finish(cut=cut)


class NamedCallReader:
    """Reads the JSON arguments of one call whose name the caller chose."""

    held = 0

    def __init__(self, parts: Parts, name: str) -> None:
        self._parts = parts
        self._name = name
        self._end = JsonEnd()
        self._over = False

    def read(self, text: str) -> None:
        """Reads more of the arguments; text after them is ignored."""
        if self._over:
            return
        at = 0
        if not self._parts.in_call:
            at = past(text, 0, SPACE)
            if at == len(text):
                return
            self._parts.begin_call(self._name)
        end = self._end.find(text, at)
        self._parts.arguments(text[at:end])
        if end is not None:
            self._over = True
            self._parts.end_call()

    def finish(self, *, cut: bool) -> None:  # noqa: ARG002  # all readers get it
        """Ends the open call with what was read."""
        self._parts.end_call()
