"""The parts of one choice: turns what parsers report into events."""

from __future__ import annotations

from typing import Literal

from orchestrator.core.events import (
    ChoiceFinished,
    FinishReason,
    GenerationEvent,
    PartDelta,
    PartFinished,
    PartKind,
    PartStarted,
)
from orchestrator.core.ids import new_id
from orchestrator.core.messages import Part, ReasoningPart, TextPart, ToolCallPart

EndReason = Literal["stop", "length"]


class Parts:
    """Opens, fills and closes the parts of one choice, one after the other.

    White space at the borders of reasoning is dropped. With `trims`, white space around tool calls
    is dropped as well; so white space at the end of a text is held until the next text. With
    `single_call` the choice ends after its first tool call: `ended` is true, the rest is ignored.
    """

    def __init__(self, choice: int, *, trims: bool = False, single_call: bool = False) -> None:
        self._choice = choice
        self._trims = trims
        self.single_call = single_call
        self._events: list[GenerationEvent] = []
        self._kind: PartKind | None = None
        self._whole: list[str] = []
        self._fresh: list[str] = []
        self._space: list[str] = []
        self._behind_mark = False
        self._call_id = self._call_name = ""
        self._calls = 0
        self.held = 0
        """Number of white space characters that are held until the next text."""
        self.ended = False

    @property
    def in_call(self) -> bool:
        """Whether a tool call is open."""
        return self._kind == "tool_call"

    def take(self) -> list[GenerationEvent]:
        """Returns the events since the last call."""
        if self._fresh:
            self._flush()
        events, self._events = self._events, []
        return events

    def text(self, text: str) -> None:
        """Adds text of the answer."""
        if not text:
            return
        if self._kind == "text" and not self._trims:
            self._fresh.append(text)
        else:
            self._add("text", text, trims=self._trims)

    def reasoning(self, text: str) -> None:
        """Adds text that the model thinks before it answers."""
        self._behind_mark = self._behind_mark or self._kind is None
        self._add("reasoning", text, trims=True)

    def end_reasoning(self) -> None:
        """Closes the reasoning; the answer begins."""
        self._forget_space()
        self._close()
        self._behind_mark = True

    def begin_call(self, name: str) -> None:
        """Opens a tool call, whose name is now known."""
        if self.ended:
            return
        self._forget_space()
        self._close()
        self._kind = "tool_call"
        self._call_id, self._call_name = new_id("call"), name
        self._calls += 1
        self._events.append(PartStarted(self._choice, "tool_call", self._call_id, name))

    def arguments(self, text: str) -> None:
        """Adds JSON text to the arguments of the open call."""
        if text and self.in_call:
            self._fresh.append(text)

    def end_call(self) -> None:
        """Closes the open call, which is complete."""
        if self.in_call:
            self._close()
            self._behind_mark = True
            self.ended = self.single_call

    def finish(self, reason: EndReason, stop_sequence: str | None = None) -> None:
        """Ends the choice. A stop after a tool call is reported as `tool_calls`."""
        if self._space and (self._kind == "text" or not self._behind_mark):
            self._put("text", "".join(self._space))
        self._close()
        true_reason: FinishReason = "tool_calls" if reason == "stop" and self._calls else reason
        self._events.append(ChoiceFinished(self._choice, true_reason, stop_sequence))

    def _add(self, kind: PartKind, text: str, *, trims: bool) -> None:
        if self.ended:
            return
        if self._behind_mark and self._kind != kind:
            text = text.lstrip()
        if not trims or not text:
            self._put(kind, text)
            return
        core = text.rstrip()
        if core:
            space = "".join(self._space)
            self._forget_space()
            self._put(kind, space + core)
        if len(core) < len(text):
            self._space.append(text[len(core) :])
            self.held += len(text) - len(core)

    def _put(self, kind: PartKind, text: str) -> None:
        if not text:
            return
        if self._kind != kind:
            if self._kind is not None:
                self._close()
            self._kind = kind
            self._events.append(PartStarted(self._choice, kind))
        self._fresh.append(text)

    def _flush(self) -> None:
        """Makes one delta of the pieces since the last delta."""
        if self._fresh and self._kind is not None:
            text = "".join(self._fresh)
            self._whole.append(text)
            self._fresh.clear()
            self._events.append(PartDelta(self._choice, self._kind, text))

    def _close(self) -> None:
        if self._kind is None:
            return
        if self._fresh:
            self._flush()
        self._events.append(PartFinished(self._choice, self._part("".join(self._whole))))
        self._kind = None
        self._whole.clear()

    def _part(self, whole: str) -> Part:
        match self._kind:
            case "tool_call":
                return ToolCallPart(self._call_id, self._call_name, whole)
            case "reasoning":
                return ReasoningPart(whole)
            case _:
                return TextPart(whole)

    def _forget_space(self) -> None:
        self._space.clear()
        self.held = 0
