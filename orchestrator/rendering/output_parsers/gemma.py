"""Gemma: fences with JSON or Python calls, and the notation with function tokens."""

from __future__ import annotations

from orchestrator.rendering.output_parsers.call_object import CallObjects
from orchestrator.rendering.output_parsers.gemma_notation import NotedCall
from orchestrator.rendering.output_parsers.markers import SPACE, Markers, past
from orchestrator.rendering.output_parsers.parts import Parts
from orchestrator.rendering.output_parsers.python_calls import PythonCalls
from orchestrator.rendering.output_parsers.reader import Block

TOKENS = (
    "<start_function_call>",
    "<end_function_call>",
    "<escape>",
    "<|tool_call>",
    "<tool_call|>",
    '<|"|>',
)
RESULT_TOKENS = (
    "<start_function_response>",
    "<end_function_response>",
    "<|tool_response>",
    "<tool_response|>",
)

_FENCE = "```"
_MAX_SPACE = 256
_OPENINGS = Markers("```tool_code", "```tool_call", "<start_function_call>", "<|tool_call>")


class Gemma:
    """Gemma 3 writes fences, as its prompts ask; later versions have tokens of their own."""

    openings = _OPENINGS

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def block(self, opening: str) -> Block:
        """A fence, or one call in the notation of `opening`."""
        match opening:
            case "<start_function_call>":
                return NotedCall(self._parts, quote="<escape>", closing="<end_function_call>")
            case "<|tool_call>":
                return NotedCall(self._parts, quote='<|"|>', closing="<tool_call|>")
            case _:
                return _FenceBlock(self._parts)

    def bare_block(self) -> Block | None:
        """None: a call needs its opening."""
        return None


class _FenceBlock:
    """A fence; its first characters decide between JSON and Python."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._inner: CallObjects | PythonCalls | None = None
        self.over = False
        self.failed = False

    @property
    def clean(self) -> bool:
        return self._inner is not None and self._inner.clean

    def feed(self, text: str, at: int) -> int:
        if self._inner is None:
            first = past(text, at, SPACE)
            second = past(text, first + 1, SPACE) if text[first : first + 1] == "[" else first
            if second >= len(text) and second - first <= _MAX_SPACE:
                # The character after the bracket decides; white space alone is read further.
                return first
            if second - first <= _MAX_SPACE and text[second] == "{":
                self._inner = CallObjects(self._parts, closing=_FENCE)
            else:
                self._inner = PythonCalls(self._parts, closing=_FENCE)
        at = self._inner.feed(text, at)
        self.over, self.failed = self._inner.over, self._inner.failed
        return at

    def finish(self, *, cut: bool) -> None:
        if self._inner is None:
            self.failed = True
            return
        self._inner.finish(cut=cut)
        self.failed = self._inner.failed
