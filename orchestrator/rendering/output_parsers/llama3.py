"""Llama 3: JSON objects after `<|python_tag|>`, or bare at the start; `;` between them."""

from __future__ import annotations

from orchestrator.rendering.output_parsers.call_object import CallObjects
from orchestrator.rendering.output_parsers.markers import Markers
from orchestrator.rendering.output_parsers.parts import Parts
from orchestrator.rendering.output_parsers.reader import Block

TOKENS = ("<|python_tag|>",)

_OPENINGS = Markers("<|python_tag|>")


class Llama3:
    """A bare object is a call only if it names one of the tools: answers may be JSON too."""

    openings = _OPENINGS

    def __init__(self, parts: Parts, names: frozenset[str]) -> None:
        self._parts = parts
        self._names = names

    def block(self, _opening: str) -> Block:
        """Calls; code for the built-in interpreter stays text."""
        return CallObjects(self._parts)

    def bare_block(self) -> Block | None:
        """Calls of known tools only."""
        return CallObjects(self._parts, names=self._names)
