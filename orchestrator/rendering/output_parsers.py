"""What a model writes, sorted into parts. One parser per way of writing tool calls."""

from __future__ import annotations

import json
import re
from typing import Literal, Protocol

from orchestrator.core.events import (
    ChoiceFinished,
    FinishReason,
    GenerationEvent,
    PartDelta,
    PartFinished,
    PartStarted,
)
from orchestrator.core.ids import new_id
from orchestrator.core.messages import TextPart, ToolCallPart

EndReason = Literal["stop", "length"]


class OutputParser(Protocol):
    """Turns the text of one choice into its events."""

    def feed(self, text: str) -> list[GenerationEvent]:
        """The events that `text` brings about."""

    def finish(self, reason: EndReason) -> list[GenerationEvent]:
        """The rest, ending with `ChoiceFinished` and the true reason."""


class PlainParser:
    """Everything is text."""

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._text = _TextPart(choice)

    def feed(self, text: str) -> list[GenerationEvent]:
        """More of the one text part."""
        return self._text.add(text)

    def finish(self, reason: EndReason) -> list[GenerationEvent]:
        """The end of the part, and the engine's own reason."""
        return [*self._text.close(), ChoiceFinished(self._choice, reason)]


class HermesParser:
    """Tool calls as `<tool_call>` JSON `</tool_call>`; everything else is text.

    White space around calls belongs to neither. A call that cannot be parsed stays text. Arguments
    are given out whole, when the call is complete.
    """

    _OPENING = "<tool_call>"
    _CLOSING = "</tool_call>"
    _MOST_SPACE = 256

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._text = _TextPart(choice)
        self._buffer = ""
        self._in_call = False
        self._searched = 0
        self._calls = 0

    def feed(self, text: str) -> list[GenerationEvent]:
        """Text that is certain to be text, and calls that are complete."""
        self._buffer += text
        events: list[GenerationEvent] = []
        while (found := self._read_call() if self._in_call else self._read_text()) is not None:
            events += found
        if not self._in_call:
            events += self._let_through()
        return events

    def finish(self, reason: EndReason) -> list[GenerationEvent]:
        """The rest. A stop after a call means `tool_calls`; a call that was cut stays `length`."""
        rest, self._buffer = self._buffer, ""
        events: list[GenerationEvent] = []
        if not self._in_call:
            if not self._calls or self._text.is_open or rest.strip():
                events += self._add_text(rest)
        elif (call := _parse_call(rest)) is not None:
            events += self._give_call(call)
        elif reason == "length" and (cut := _parse_cut_call(rest)) is not None:
            events += self._give_call(cut)
        else:
            events += self._add_text(self._OPENING + rest)
        events += self._text.close()
        true_reason: FinishReason = "tool_calls" if reason == "stop" and self._calls else reason
        return [*events, ChoiceFinished(self._choice, true_reason)]

    def _read_text(self) -> list[GenerationEvent] | None:
        """The text before the next call, or `None` when no call begins in the buffer."""
        before, opening, rest = self._buffer.partition(self._OPENING)
        if not opening:
            return None
        self._buffer = rest
        self._in_call = True
        self._searched = 0
        return self._add_text(before.rstrip())

    def _read_call(self) -> list[GenerationEvent] | None:
        """The call that ends in the buffer, or `None` when none does."""
        end = self._buffer.find(self._CLOSING, self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - len(self._CLOSING) + 1)
            return None
        body = self._buffer[:end]
        self._buffer = self._buffer[end + len(self._CLOSING) :]
        self._in_call = False
        if (call := _parse_call(body)) is not None:
            return self._give_call(call)
        return self._add_text(self._OPENING + body + self._CLOSING)

    def _let_through(self) -> list[GenerationEvent]:
        """Text that cannot be the beginning of a call or the space before one."""
        buffer = self._buffer
        end = len(buffer)
        for length in range(min(len(self._OPENING) - 1, end), 0, -1):
            if buffer.endswith(self._OPENING[:length]):
                end -= length
                break
        certain = len(buffer[:end].rstrip())
        if end - certain > self._MOST_SPACE:
            certain = end
        self._buffer = buffer[certain:]
        return self._add_text(buffer[:certain])

    def _add_text(self, text: str) -> list[GenerationEvent]:
        if self._calls and not self._text.is_open:
            text = text.lstrip()
        return self._text.add(text)

    def _give_call(self, call: tuple[str, str]) -> list[GenerationEvent]:
        name, arguments = call
        part = ToolCallPart(new_id("call"), name, arguments)
        self._calls += 1
        events = self._text.close()
        events.append(PartStarted(self._choice, "tool_call", part.id, name))
        if arguments:
            events.append(PartDelta(self._choice, "tool_call", arguments))
        events.append(PartFinished(self._choice, part))
        return events


class _TextPart:
    """The text part of a choice, opened by its first character."""

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._pieces: list[str] = []

    @property
    def is_open(self) -> bool:
        return bool(self._pieces)

    def add(self, text: str) -> list[GenerationEvent]:
        if not text:
            return []
        events: list[GenerationEvent] = []
        if not self._pieces:
            events.append(PartStarted(self._choice, "text"))
        self._pieces.append(text)
        events.append(PartDelta(self._choice, "text", text))
        return events

    def close(self) -> list[GenerationEvent]:
        if not self._pieces:
            return []
        part = TextPart("".join(self._pieces))
        self._pieces = []
        return [PartFinished(self._choice, part)]


_NAME_FIRST = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')


def _parse_call(body: str) -> tuple[str, str] | None:
    """Name and arguments (their JSON text as produced, where it can be cut out) of a call."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(name := call.get("name"), str) or not name:
        return None
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):
        return name, arguments
    if (head := _NAME_FIRST.match(body)) is not None:
        _, end = json.JSONDecoder().raw_decode(body, head.end())
        return name, body[head.end() : end]
    return name, json.dumps(arguments, ensure_ascii=False)


def _parse_cut_call(body: str) -> tuple[str, str] | None:
    """Name and as much of the arguments as there is of a call that was cut off."""
    if (head := _NAME_FIRST.match(body)) is None:
        return None
    try:
        name = json.loads(head[1])
    except ValueError:
        return None
    return (name, body[head.end() :]) if name else None
