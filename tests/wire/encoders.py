"""What a client of each dialect makes of a stream and of a whole reply."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.core.events import Completion, GenerationEvent
from orchestrator.responses.values import StoredResponse
from orchestrator.wire.anthropic import encoder as anthropic_encoder
from orchestrator.wire.gemini import encoder as gemini_encoder
from orchestrator.wire.openai import completions as openai_completions
from orchestrator.wire.openai.chat import routes as chat_routes
from orchestrator.wire.openai.realtime.config import Config
from orchestrator.wire.openai.realtime.response import Response
from orchestrator.wire.openai.responses.encoder import ResponseEncoder


@dataclass
class Told:
    """What a client has in the end. Calls are names with the JSON text of their arguments."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    reason: str = ""
    tokens: tuple[int, int] = (0, 0)


Read = Callable[[Sequence[GenerationEvent], Completion], Iterable[Told]]


def events_of(frames: Iterable[bytes]) -> list[dict[str, Any]]:
    """The JSON of server-sent events; each frame must be a whole one, in ASCII, with LF alone."""
    found = []
    for frame in frames:
        assert frame.isascii()
        assert frame.endswith(b"\n\n")
        assert b"\r" not in frame
        assert frame.count(b"\n\n") == 1
        line = frame.rstrip(b"\n").rpartition(b"\n")[2]
        assert line.startswith(b"data: ")
        if line != b"data: [DONE]":
            found.append(json.loads(line.removeprefix(b"data: ")))
    return found


def chat(events: Sequence[GenerationEvent], completion: Completion) -> Iterable[Told]:
    def encoder() -> chat_routes.Encoder:
        return chat_routes.Encoder(choices=1, include_usage=True, fingerprint="fp")

    streamed, calls = Told(), dict[int, list[str]]()
    one = encoder()
    for chunk in events_of(frame for event in events for frame in one.event(event)):
        if chunk["usage"]:
            streamed.tokens = _tokens(chunk["usage"], "prompt_tokens", "completion_tokens")
        for choice in chunk["choices"]:
            delta = choice["delta"]
            streamed.text += delta.get("content") or ""
            streamed.reasoning += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", ()):
                pieces = calls.setdefault(call["index"], [])
                pieces += [call["function"].get("name", ""), call["function"]["arguments"]]
            streamed.reason = choice["finish_reason"] or streamed.reason
    streamed.calls = [(pieces[0], "".join(pieces[1:])) for _, pieces in sorted(calls.items())]
    yield streamed

    body = json.loads(encoder().result(completion))
    (choice,) = body["choices"]
    message = choice["message"]
    yield Told(
        message["content"] or "",
        message.get("reasoning_content", ""),
        [
            (call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls", ())
        ],
        choice["finish_reason"],
        _tokens(body["usage"], "prompt_tokens", "completion_tokens"),
    )


def _response_encoder() -> ResponseEncoder:
    body = {"id": "resp_1", "status": "in_progress", "output": [], "created_at": 1}
    body |= {"usage": None, "incomplete_details": None}
    return ResponseEncoder(StoredResponse("tenant", body))


def responses(events: Sequence[GenerationEvent], completion: Completion) -> Iterable[Told]:
    one, streamed = _response_encoder(), Told()
    frames = [frame for event in events for frame in one.event(event)]
    for number, event in enumerate(events_of(frames)):
        assert event["sequence_number"] == number
        match event["type"]:
            case "response.output_text.delta":
                streamed.text += event["delta"]
            case "response.reasoning_text.delta":
                streamed.reasoning += event["delta"]
            case "response.output_item.added" if event["item"]["type"] == "function_call":
                streamed.calls.append((event["item"]["name"], ""))
            case "response.function_call_arguments.delta":
                name, arguments = streamed.calls.pop()
                streamed.calls.append((name, arguments + event["delta"]))
            case "response.completed" | "response.incomplete":
                whole = _response(event["response"])
                streamed.reason, streamed.tokens = whole.reason, whole.tokens
            case _:
                pass
    yield streamed
    yield whole
    yield _response(json.loads(one.result(completion)))


def _response(body: dict[str, Any]) -> Told:
    told = Told(tokens=_tokens(body["usage"], "input_tokens", "output_tokens"))
    for item in body["output"]:
        match item["type"]:
            case "message":
                told.text += "".join(part["text"] for part in item["content"])
            case "reasoning":
                told.reasoning += "".join(part["text"] for part in item["content"])
            case "function_call":
                told.calls.append((item["name"], item["arguments"]))
    cut = (body["incomplete_details"] or {}).get("reason") == "max_output_tokens"
    told.reason = "length" if cut else "tool_calls" if told.calls else "stop"
    assert (body["status"] == "incomplete") is cut
    return told


def realtime(events: Sequence[GenerationEvent], completion: Completion) -> Iterable[Told]:
    del completion
    for dialect in ("ga", "beta"):
        told, response = Told(), Response(dialect, Config(), None, None)
        word = "response.output_text" if dialect == "ga" else "response.text"
        for sent in (one for event in events for one in response.event(event)):
            match sent["type"]:
                case kind if kind == f"{word}.delta":
                    told.text += sent["delta"]
                case "response.output_item.added" if sent["item"]["type"] == "function_call":
                    told.calls.append((sent["item"]["name"], ""))
                case "response.function_call_arguments.delta":
                    name, arguments = told.calls.pop()
                    told.calls.append((name, arguments + sent["delta"]))
                case "response.done":
                    done = sent["response"]
                    told.tokens = _tokens(done["usage"], "input_tokens", "output_tokens")
                    cut = done["status"] == "incomplete"
                    told.reason = "length" if cut else "tool_calls" if told.calls else "stop"
                case _:
                    pass
        yield told


def gemini(events: Sequence[GenerationEvent], completion: Completion) -> Iterable[Told]:
    def encoder(*, events: bool = True) -> gemini_encoder.Encoder:
        return gemini_encoder.Encoder(thoughts=True, events=events)

    one = encoder()
    yield _gemini(events_of(frame for event in events for frame in one.event(event)))
    one = encoder(events=False)
    yield _gemini(json.loads(b"".join(frame for event in events for frame in one.event(event))))
    yield _gemini([json.loads(encoder().result(completion))])


def _gemini(chunks: Sequence[dict[str, Any]]) -> Told:
    told = Told()
    for chunk in chunks:
        for candidate in chunk.get("candidates", ()):
            for part in candidate.get("content", {}).get("parts", ()):
                if "functionCall" in part:
                    call = part["functionCall"]
                    told.calls.append((call["name"], json.dumps(call["args"])))
                elif part.get("thought"):
                    told.reasoning += part["text"]
                else:
                    told.text += part["text"]
            told.reason = candidate.get("finishReason") or told.reason
        if usage := chunk.get("usageMetadata"):
            made = usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0)
            told.tokens = (usage["promptTokenCount"], made)
    cut = told.reason == "MAX_TOKENS"
    told.reason = "length" if cut else "tool_calls" if told.calls else "stop"
    return told


def anthropic(events: Sequence[GenerationEvent], completion: Completion) -> Iterable[Told]:
    def encoder() -> anthropic_encoder.Encoder:
        return anthropic_encoder.Encoder(thinking=True)

    one, told, usage = encoder(), Told(), dict[str, int]()
    for sent in events_of(frame for event in events for frame in one.event(event)):
        match sent["type"]:
            case "message_start":
                usage |= sent["message"]["usage"]
            case "content_block_start" if sent["content_block"]["type"] == "tool_use":
                told.calls.append((sent["content_block"]["name"], ""))
            case "content_block_delta":
                _add(told, sent["delta"])
            case "message_delta":
                usage |= sent["usage"]
                told.reason = _REASONS[sent["delta"]["stop_reason"]]
            case _:
                pass
    told.tokens = _anthropic_tokens(usage)
    yield told
    yield _message(json.loads(encoder().result(completion)))


def _add(told: Told, delta: dict[str, Any]) -> None:
    told.text += delta.get("text", "")
    told.reasoning += delta.get("thinking", "")
    if "partial_json" in delta:
        name, arguments = told.calls.pop()
        told.calls.append((name, arguments + delta["partial_json"]))


def _message(body: dict[str, Any]) -> Told:
    whole = Told(reason=_REASONS[body["stop_reason"]], tokens=_anthropic_tokens(body["usage"]))
    for block in body["content"]:
        match block["type"]:
            case "text":
                whole.text += block["text"]
            case "thinking":
                whole.reasoning += block["thinking"]
            case "tool_use":
                whole.calls.append((block["name"], json.dumps(block["input"])))
    return whole


def completions(events: Sequence[GenerationEvent], completion: Completion) -> Iterable[Told]:
    """Knows text only."""

    def encoder() -> openai_completions.Encoder:
        return openai_completions.Encoder(echoes=[""], include_usage=True, fingerprint="fp")

    one, told = encoder(), Told()
    for chunk in events_of(frame for event in events for frame in one.event(event)):
        if chunk["usage"]:
            told.tokens = _tokens(chunk["usage"], "prompt_tokens", "completion_tokens")
        for choice in chunk["choices"]:
            told.text += choice["text"]
            told.reason = choice["finish_reason"] or told.reason
    yield told
    body = json.loads(encoder().result(completion))
    (choice,) = body["choices"]
    tokens = _tokens(body["usage"], "prompt_tokens", "completion_tokens")
    yield Told(choice["text"], reason=choice["finish_reason"], tokens=tokens)


_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}


def _tokens(usage: dict[str, Any], prompt: str, completion: str) -> tuple[int, int]:
    return usage[prompt], usage[completion]


def _anthropic_tokens(usage: dict[str, Any]) -> tuple[int, int]:
    return usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"]


DIALECTS: dict[str, Read] = {
    "chat": chat,
    "responses": responses,
    "realtime": realtime,
    "gemini": gemini,
    "anthropic": anthropic,
}


class Encodes(Protocol):
    """What all encoders have in common."""

    def event(self, event: GenerationEvent) -> Iterable[object]:
        """What `event` brings about."""


ENCODERS: dict[str, Callable[[], Encodes]] = {
    "chat": lambda: chat_routes.Encoder(choices=1, include_usage=True, fingerprint="fp"),
    "responses": _response_encoder,
    "realtime": lambda: Response("ga", Config(), None, None),
    "gemini": lambda: gemini_encoder.Encoder(events=False),
    "anthropic": lambda: anthropic_encoder.Encoder(thinking=True),
    "completions": lambda: openai_completions.Encoder(
        echoes=[""], include_usage=True, fingerprint="fp"
    ),
}
