"""Writes a generation down as Gemini's content, whole or chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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
    LikelyToken,
    PartDelta,
    PartFinished,
    PartStarted,
    TokenLogprob,
    Usage,
)
from orchestrator.core.messages import ReasoningPart, TextPart, ToolCallPart
from orchestrator.http.sse import EVENT_STREAM, Framing
from orchestrator.wire.call_arguments import in_ascii, whole_arguments

JSON_ARRAY = Framing(b"application/json", b"\n")
BLANK_PINGED_EVENTS = Framing(EVENT_STREAM.content_type, b"\n")
"""Google's Python client reads every line that is no data as an error, and skips blank lines.

Source: google-genai 3.4, `_iter_response_stream`.
"""
_FINISH_REASONS: dict[FinishReason, str] = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
}
_escaped = json.encoder.encode_basestring_ascii


class Encoder:
    """One per request.

    `thoughts` says whether thoughts are parts of the answer; `logprobs` whether log-probabilities
    were asked for; `unquoted` that the text is one JSON string, to be given without its quotes. A
    stream is `events`, or one JSON array.
    """

    def __init__(
        self,
        *,
        choices: int = 1,
        thoughts: bool = False,
        logprobs: bool = False,
        unquoted: bool = False,
        events: bool,
    ) -> None:
        self._thoughts = thoughts
        self._unquoted = unquoted
        self._wants_logprobs = logprobs
        self._before, self._after = (b"data: ", b"\n\n") if events else (b"[", b"")
        self._events = events
        self._heads = [b'{"candidates":[{"index":%d' % index for index in range(choices)]
        self._running = b""
        self._envelope: dict[str, Any] = {}
        self._ends: list[_End] = [_End() for _ in range(choices)]

    @property
    def framing(self) -> Framing:
        """What its streams are made of."""
        return BLANK_PINGED_EVENTS if self._events else JSON_ARRAY

    def event(self, event: GenerationEvent) -> Sequence[bytes]:
        """The chunks that `event` brings about."""
        match event:
            case PartDelta(kind="text") if not self._unquoted:
                return (self._text(event, b'{"text":', b"}"),)
            case PartDelta(kind="reasoning") if self._thoughts:
                return (self._text(event, b'{"thought":true,"text":', b"}"),)
            case PartDelta():
                self._ends[event.choice].logprobs.extend(event.logprobs)
                return ()
            case GenerationStarted():
                self._started(event)
                return ()
            case PartFinished():
                return self._whole_part(event)
            case PartStarted():
                return ()
            case ChoiceFinished():
                self._ends[event.choice].finish(event)
                return ()
            case GenerationFinished():
                return self._finished(event)
            case _:
                assert_never(event)

    def result(self, completion: Completion) -> bytes:
        """The whole reply."""
        return orjson.dumps(
            {
                "candidates": [
                    self._candidate(index, choice)
                    for index, choice in enumerate(completion.choices)
                ],
                "usageMetadata": usage_metadata(completion.usage),
                "modelVersion": completion.model,
                "responseId": completion.id,
            }
        )

    def error(self, members: dict[str, Any]) -> Sequence[bytes]:
        """A last chunk that is the error alone, as Google's clients look for it."""
        chunk = self._framed(_dumps(members))
        return (chunk,) if self._events else (chunk, b"]")

    def _started(self, event: GenerationStarted) -> None:
        """Renders what is the same in every chunk."""
        self._envelope = {"modelVersion": event.model, "responseId": event.id}
        usage = usage_metadata(Usage(event.prompt_tokens, 0))
        self._running = b"}]," + _dumps({"usageMetadata": usage, **self._envelope})[1:]

    def _text(self, event: PartDelta, head: bytes, end: bytes) -> bytes:
        return self._part(
            event.choice, head + _escaped(event.text).encode("ascii") + end, event.logprobs
        )

    def _part(self, choice: int, part: bytes, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        content = b',"content":{"parts":[' + part + b'],"role":"model"}'
        if self._wants_logprobs:
            tokens = [*self._ends[choice].take_logprobs(), *logprobs]
            content += b',"logprobsResult":' + _dumps(_logprobs(tokens))
        return self._framed(self._heads[choice] + content + self._running)

    def _whole_part(self, event: PartFinished) -> Sequence[bytes]:
        """What goes out whole: a call, for this dialect has no deltas of one, and a JSON string."""
        match event.part:
            case ToolCallPart() as call:
                part = _call_part(call)
                self._ends[event.choice].malformed |= part is None
                return () if part is None else (self._part(event.choice, in_ascii(part).encode()),)
            case TextPart(text=text) if self._unquoted:
                return (self._part(event.choice, _dumps({"text": _unquoted(text)})),)
            case _:
                return ()

    def _framed(self, chunk: bytes) -> bytes:
        framed = self._before + chunk + self._after
        if not self._events:
            self._before = b",\n"
        return framed

    def _finished(self, event: GenerationFinished) -> Sequence[bytes]:
        """One chunk with the ends of all candidates, and what they cost."""
        candidates = []
        for index, end in enumerate(self._ends):
            candidate: dict[str, Any] = {
                "index": index,
                "content": {"parts": [{"text": ""}], "role": "model"},
                "finishReason": end.reason,
            }
            if self._wants_logprobs:
                candidate["logprobsResult"] = _logprobs(end.take_logprobs())
            candidates.append(candidate)
        usage = usage_metadata(event.usage)
        chunk = self._framed(
            _dumps({"candidates": candidates, "usageMetadata": usage, **self._envelope})
        )
        return (chunk,) if self._events else (chunk, b"]")

    def _candidate(self, index: int, choice: Choice) -> dict[str, Any]:
        end = _End()
        parts: list[dict[str, Any] | orjson.Fragment] = []
        for part in choice.parts:
            match part:
                case TextPart(text=text):
                    parts.append({"text": _unquoted(text) if self._unquoted else text})
                case ReasoningPart(text=text):
                    if self._thoughts:
                        parts.append({"thought": True, "text": text})
                case ToolCallPart():
                    call = _call_part(part)
                    end.malformed = end.malformed or call is None
                    parts += [orjson.Fragment(call)] if call is not None else []
                case _:
                    assert_never(part)
        end.finish(ChoiceFinished(index, choice.reason))
        candidate: dict[str, Any] = {
            "content": {"parts": parts or [{"text": ""}], "role": "model"},
            "finishReason": end.reason,
            "index": index,
        }
        if self._wants_logprobs:
            candidate["logprobsResult"] = _logprobs(choice.logprobs)
            candidate["avgLogprobs"] = _average(choice.logprobs)
        return candidate


class _End:
    """What is known of the end of one candidate, and log-probabilities that no chunk has taken."""

    def __init__(self) -> None:
        self.reason = "STOP"
        self.malformed = False
        self.logprobs: list[TokenLogprob] = []

    def finish(self, event: ChoiceFinished) -> None:
        self.reason = _FINISH_REASONS[event.reason]
        # A call that was cut is no call; one that was not, and cannot be read, is a fault of it.
        if self.malformed and event.reason == "tool_calls":
            self.reason = "MALFORMED_FUNCTION_CALL"
        self.logprobs.extend(event.logprobs)

    def take_logprobs(self) -> list[TokenLogprob]:
        taken, self.logprobs = self.logprobs, []
        return taken


def usage_metadata(usage: Usage) -> dict[str, Any]:
    """Google's `usageMetadata`: thoughts are counted beside the candidates."""
    metadata: dict[str, Any] = {
        "promptTokenCount": usage.prompt_tokens,
        "candidatesTokenCount": usage.completion_tokens - usage.reasoning_tokens,
        "totalTokenCount": usage.total_tokens,
        "promptTokensDetails": text_tokens(usage.prompt_tokens),
    }
    if usage.cached_tokens:
        metadata["cachedContentTokenCount"] = usage.cached_tokens
    if usage.reasoning_tokens:
        metadata["thoughtsTokenCount"] = usage.reasoning_tokens
    return metadata


def text_tokens(count: int) -> list[dict[str, Any]]:
    """A count of tokens by what they came from: there is only text."""
    return [{"modality": "TEXT", "tokenCount": count}]


def _call_part(call: ToolCallPart) -> str | None:
    """The part of a call as JSON, or `None` when its arguments are no JSON object."""
    arguments = whole_arguments(call.arguments)
    if arguments is None:
        return None
    head = orjson.dumps({"id": call.id, "name": call.name}).decode()[:-1]
    return f'{{"functionCall":{head},"args":{arguments}}}}}'


def _unquoted(text: str) -> str:
    """The string that `text` is in JSON; what was cut stays as it is."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if isinstance(value, str) else text


def _logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    chosen = list(tokens)
    return {
        "chosenCandidates": [_likely(token) for token in chosen],
        "topCandidates": [
            {"candidates": [_likely(likely) for likely in token.top]} for token in chosen
        ],
        "logProbabilitySum": sum(token.logprob for token in chosen),
    }


def _likely(token: TokenLogprob | LikelyToken) -> dict[str, Any]:
    text = token.raw.decode("utf-8", "replace")
    return {"token": text, "tokenId": token.token_id, "logProbability": token.logprob}


def _average(tokens: Sequence[TokenLogprob]) -> float:
    return sum(token.logprob for token in tokens) / len(tokens) if tokens else 0.0


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
