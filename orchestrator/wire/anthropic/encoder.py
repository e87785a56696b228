"""Writes a generation down as a message of Anthropic's, whole or event by event."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, assert_never

import orjson

from orchestrator.core.events import (
    Choice,
    ChoiceFinished,
    Completion,
    FinishReason,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartStarted,
    Usage,
)
from orchestrator.core.messages import ReasoningPart, TextPart, ToolCallPart
from orchestrator.http.sse import EVENT_STREAM, Framing
from orchestrator.wire.call_arguments import readable_arguments

PINGED_EVENTS = Framing(EVENT_STREAM.content_type, b'event: ping\ndata: {"type":"ping"}\n\n')
_STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_escaped = json.encoder.encode_basestring_ascii


class Encoder:
    """One per request. There is one choice: this dialect cannot ask for more.

    `thinking` says whether thoughts are blocks of the answer, `omit_thoughts` whether such blocks
    come without their text. Frames are ASCII, each a whole event.
    """

    def __init__(self, *, thinking: bool, omit_thoughts: bool = False) -> None:
        self._thinking = thinking
        self._omit_thoughts = omit_thoughts
        self._index = -1
        self._is_open = False
        self._text_head = b""
        self._stop: tuple[str, str | None] = ("end_turn", None)

    def event(self, event: GenerationEvent) -> Sequence[bytes]:
        """The events that `event` brings about."""
        match event:
            case PartDelta(kind="text"):
                return (self._text_head + _escaped(event.text).encode("ascii") + b"}}\n\n",)
            case PartDelta():
                return self._delta(event)
            case GenerationStarted():
                return (_frame("message_start", {"message": _opening(event)}),)
            case PartStarted():
                return self._opened(event)
            case PartFinished():
                return self._closed(event)
            case ChoiceFinished():
                self._stop = _stop(event.reason, event.stop_sequence)
                return ()
            case GenerationFinished():
                reason, sequence = self._stop
                delta = {"stop_reason": reason, "stop_sequence": sequence}
                members = {"delta": delta, "usage": _usage_object(event.usage)}
                return (_frame("message_delta", members), _frame("message_stop", {}))
            case _:
                assert_never(event)

    def result(self, completion: Completion) -> bytes:
        """The whole reply."""
        choice = completion.choices[0]
        reason, sequence = _stop(choice.reason, choice.stop_sequence)
        return orjson.dumps(
            {
                "id": _message_id(completion.id),
                "type": "message",
                "role": "assistant",
                "model": completion.model,
                "content": self._blocks(choice),
                "stop_reason": reason,
                "stop_sequence": sequence,
                "usage": _usage_object(completion.usage),
            }
        )

    def error(self, members: dict[str, Any]) -> Sequence[bytes]:
        """The end of the block that is open, and the error as an event of its own."""
        closing = [self._close()] if self._is_open else []
        text = json.dumps(members, separators=(",", ":"))
        return [*closing, f"event: error\ndata: {text}\n\n".encode("ascii")]

    def _opened(self, event: PartStarted) -> Sequence[bytes]:
        block: dict[str, Any]
        match event.kind:
            case "text":
                block = {"type": "text", "text": ""}
            case "tool_call":
                block = {
                    "type": "tool_use",
                    "id": event.tool_call_id,
                    "name": event.tool_name,
                    "input": {},
                }
            case "reasoning":
                if not self._thinking:
                    return ()
                block = {"type": "thinking", "thinking": "", "signature": ""}
            case _:
                assert_never(event.kind)
        self._index += 1
        self._is_open = True
        self._text_head = self._delta_head("text_delta", "text")
        return (_frame("content_block_start", {"index": self._index, "content_block": block}),)

    def _delta(self, event: PartDelta) -> Sequence[bytes]:
        if event.kind == "tool_call":
            head = self._delta_head("input_json_delta", "partial_json")
        elif self._thinking and not self._omit_thoughts:
            head = self._delta_head("thinking_delta", "thinking")
        else:
            return ()
        return (head + _escaped(event.text).encode("ascii") + b"}}\n\n",)

    def _closed(self, event: PartFinished) -> Sequence[bytes]:
        if not isinstance(event.part, ReasoningPart):
            return (self._close(),)
        if not self._thinking:
            return ()
        delta = {"type": "signature_delta", "signature": _signature(event.part)}
        signed = _frame("content_block_delta", {"index": self._index, "delta": delta})
        return (signed, self._close())

    def _close(self) -> bytes:
        self._is_open = False
        return _frame("content_block_stop", {"index": self._index})

    def _delta_head(self, kind: str, member: str) -> bytes:
        """All of a delta that comes before its text."""
        return (
            'event: content_block_delta\ndata: {"type":"content_block_delta",'
            f'"index":{self._index},"delta":{{"type":"{kind}","{member}":'
        ).encode("ascii")

    def _blocks(self, choice: Choice) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        for part in choice.parts:
            match part:
                case TextPart(text=text):
                    blocks.append({"type": "text", "text": text})
                case ToolCallPart():
                    blocks.append(
                        {
                            "type": "tool_use",
                            "id": part.id,
                            "name": part.name,
                            "input": orjson.Fragment(readable_arguments(part.arguments)),
                        }
                    )
                case ReasoningPart(text=text):
                    if self._thinking:
                        thinking = "" if self._omit_thoughts else text
                        signature = _signature(part)
                        blocks.append(
                            {"type": "thinking", "thinking": thinking, "signature": signature}
                        )
                case _:
                    assert_never(part)
        return blocks


def _frame(kind: str, members: dict[str, Any]) -> bytes:
    text = json.dumps({"type": kind, **members}, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode("ascii")


def _opening(event: GenerationStarted) -> dict[str, Any]:
    """The message as far as it is known before its first token."""
    return {
        "id": _message_id(event.id),
        "type": "message",
        "role": "assistant",
        "model": event.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage_object(Usage(event.prompt_tokens, 0)),
    }


def _message_id(generation_id: str) -> str:
    return "msg_" + generation_id.removeprefix("chatcmpl-")


def _stop(reason: FinishReason, stop_sequence: str | None) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence`."""
    if reason == "stop" and stop_sequence is not None:
        return "stop_sequence", stop_sequence
    return _STOP_REASONS[reason], None


def _usage_object(usage: Usage) -> dict[str, Any]:
    """Anthropic's `usage`: tokens read from a cache are not among the input tokens."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _signature(part: ReasoningPart) -> str:
    """What clients send back with a thinking block. It is not read here: thoughts are only text."""
    return hashlib.sha256(part.text.encode("utf-8", "surrogatepass")).hexdigest()
