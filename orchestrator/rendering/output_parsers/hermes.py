"""Hermes and Qwen: `<tool_call>` JSON `</tool_call>`."""

from __future__ import annotations

from orchestrator.rendering.output_parsers.call_object import CallObjects
from orchestrator.rendering.output_parsers.markers import Markers
from orchestrator.rendering.output_parsers.parts import Parts
from orchestrator.rendering.output_parsers.reader import Block

TOKENS = ("<tool_call>", "</tool_call>")
RESULT_TOKENS = ("<tool_response>", "</tool_response>")

_OPENINGS = Markers("<tool_call>")


class Hermes:
    """Calls may be anywhere in the answer."""

    openings = _OPENINGS

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def block(self, _opening: str) -> Block:
        """One call, or several."""
        return CallObjects(self._parts, closing="</tool_call>")

    def bare_block(self) -> Block | None:
        """None: a call needs its opening."""
        return None
