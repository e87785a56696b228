"""Reads the reasoning, `<think>` … `</think>`, before the answer."""

from __future__ import annotations

from typing import Literal

from orchestrator.rendering.output_parsers.markers import Markers, stands
from orchestrator.rendering.output_parsers.parts import Parts

OPENING = "<think>"
CLOSING = "</think>"

Thinking = Literal["undecided", "yes", "no"]

_CLOSING = Markers(CLOSING)
_MAX_SPACE = 256


class ReasoningReader:
    """Separates the reasoning at the beginning of an answer.

    `thinking` is `undecided` until the first characters show whether the model thinks, `yes` while
    it thinks (from the start if the prompt has opened the reasoning), and `no` in the answer.
    """

    def __init__(self, parts: Parts, *, opened: bool) -> None:
        self._parts = parts
        self._unread = ""
        self.thinking: Thinking = "yes" if opened else "undecided"

    @property
    def held(self) -> int:
        """Number of characters that may still turn out to be text."""
        return len(self._unread)

    def read(self, text: str) -> str:
        """Reads `text` and returns the part that belongs to the answer."""
        text, self._unread = self._unread + text, ""
        if self.thinking == "undecided":
            text = self._read_start(text)
        if self.thinking == "yes":
            text = self._read_thoughts(text)
        return text

    def finish(self) -> str:
        """Ends reasoning that was cut; returns held text that belongs to the answer."""
        rest, self._unread = self._unread, ""
        if self.thinking == "yes":
            self._parts.reasoning(rest)
            self._parts.end_reasoning()
            rest = ""
        self.thinking = "no"
        return rest

    def _read_start(self, text: str) -> str:
        at = len(text) - len(text.lstrip())
        opens = stands(text, at, OPENING) if at <= _MAX_SPACE else False
        if opens is None:
            self._unread = text
            return ""
        self.thinking = "yes" if opens else "no"
        return text[at + len(OPENING) :] if opens else text

    def _read_thoughts(self, text: str) -> str:
        start, closing = _CLOSING.search(text)
        self._parts.reasoning(text[:start])
        if not closing:
            self._unread = text[start:]
            return ""
        self._parts.end_reasoning()
        self.thinking = "no"
        return text[start + len(closing) :]
