"""Gemini's replies: events to bytes, streamed as events or as an array, and whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from google import genai
from google.genai import types
from google.genai.types import GenerateContentResponse as SdkResponse
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.scripted import ScriptedGeneration
from orchestrator.core.errors import ModelUnavailable
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    LikelyToken,
    PartDelta,
    PartFinished,
    PartStarted,
    TokenLogprob,
    Usage,
    fold,
)
from orchestrator.core.messages import ReasoningPart, TextPart, ToolCallPart
from orchestrator.http.errors import error_members
from orchestrator.settings import ServerSettings
from orchestrator.wire.gemini.encoder import Encoder
from orchestrator.wire.gemini.replies import ErrorReply, GenerateContentResponse
from tests.unit.serve.served import serving
from tests.wire.generations import STARTED, TWO_CALLS, generations
from tests.wire.golden import check
from tests.wire.harness import KEY, answer, bench

LIKELY = (LikelyToken(5, b"a", -0.25), LikelyToken(6, b"\xf0", -2.0))
THOUGHT: tuple[GenerationEvent, ...] = (
    STARTED,
    PartStarted(0, "reasoning"),
    PartDelta(0, "reasoning", "hm"),
    PartFinished(0, ReasoningPart("hm")),
    PartStarted(0, "text"),
    PartDelta(0, "text", "Yes."),
    PartFinished(0, TextPart("Yes.")),
    ChoiceFinished(0, "stop"),
    GenerationFinished(Usage(9, 3, 4, 1)),
)
STREAMS: dict[str, tuple[GenerationEvent, ...]] = {
    "text": answer("Your", " data", "\n\"stays\" \\ here: é 東 😀"),
    "nothing": (STARTED, ChoiceFinished(0, "length"), GenerationFinished(Usage(9, 0))),
    "two calls": TWO_CALLS,
    "call that was cut": (
        STARTED,
        PartStarted(0, "tool_call", "call_1", "weather"),
        PartFinished(0, ToolCallPart("call_1", "weather", '{"city":')),
        ChoiceFinished(0, "length"),
        GenerationFinished(Usage(9, 20)),
    ),
    "call that cannot be read": (
        STARTED,
        PartStarted(0, "tool_call", "call_1", "weather"),
        PartFinished(0, ToolCallPart("call_1", "weather", "[1]")),
        ChoiceFinished(0, "tool_calls"),
        GenerationFinished(Usage(9, 20)),
    ),
    "thinking": THOUGHT,
    "thinking not asked for": THOUGHT,
    "two candidates": (
        STARTED,
        PartStarted(1, "text"),
        PartDelta(1, "text", "B"),
        PartStarted(0, "text"),
        PartDelta(0, "text", "A"),
        PartFinished(1, TextPart("B")),
        ChoiceFinished(1, "stop"),
        PartFinished(0, TextPart("A")),
        ChoiceFinished(0, "content_filter"),
        GenerationFinished(Usage(9, 2)),
    ),
    "log probabilities": (
        STARTED,
        PartStarted(0, "reasoning"),
        PartDelta(0, "reasoning", "h", (TokenLogprob(4, b"h", -3.0),)),
        PartFinished(0, ReasoningPart("h")),
        PartStarted(0, "text"),
        PartDelta(0, "text", "a", (TokenLogprob(5, b"a", -0.25, LIKELY),)),
        PartFinished(0, TextPart("a")),
        ChoiceFinished(0, "stop", None, (TokenLogprob(7, b"\xf0", -1.0),)),
        GenerationFinished(Usage(9, 3)),
    ),
}  # fmt: skip


def encoder(name: str, *, events: bool = True) -> Encoder:
    return Encoder(
        choices=2 if name == "two candidates" else 1,
        thoughts=name == "thinking",
        logprobs=name == "log probabilities",
        events=events,
    )


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_and_the_whole_are_these_very_bytes_and_say_the_same(name: str) -> None:
    file = name.replace(" ", "_")
    frames = written(encoder(name), STREAMS[name])
    check(f"gemini/streams/{file}.sse", b"".join(frames))
    array = b"".join(written(encoder(name, events=False), STREAMS[name]))
    check(f"gemini/streams/{file}.json", array)
    assert json.loads(array) == [parsed(frame) for frame in frames]
    body = encoder(name).result(await fold(ScriptedGeneration(STREAMS[name])))
    check(f"gemini/results/{file}.json", body)
    SdkResponse.model_validate_json(body)
    for reply in (json.loads(body), *json.loads(array)):
        told = msgspec.convert(reply, GenerateContentResponse)
        assert msgspec.to_builtins(told) == reply
    assert assembled(json.loads(array)) == summary(json.loads(body))


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("seen", [0, 1, 3])
def test_an_error_is_a_chunk_of_its_own_and_the_last(events: bool, seen: int) -> None:
    encoding = encoder("text", events=events)
    frames = written(encoding, STREAMS["text"][:seen])
    frames += encoding.error(error_members(ModelUnavailable("Gone: é."), "gemini", "req_1"))
    if events:
        # Google's client looks for this very beginning.
        assert frames[-1].startswith(b'data: {"error":')
        chunks = [parsed(frame) for frame in frames]
    else:
        chunks = json.loads(b"".join(frames))
    assert chunks[-1]["error"]["status"] == "UNAVAILABLE"
    told = msgspec.convert(chunks[-1], ErrorReply)
    assert msgspec.to_builtins(told) == chunks[-1]
    if seen == 3:
        check(f"gemini/streams/error.{'sse' if events else 'json'}", b"".join(frames))


def written(encoding: Encoder, events: Sequence[GenerationEvent]) -> list[bytes]:
    return [frame for event in events for frame in encoding.event(event)]


def parsed(frame: bytes) -> dict[str, Any]:
    """The chunk of a frame, which is one line."""
    assert frame.isascii()
    assert frame.count(b"\n") == 2
    assert frame.endswith(b"\n\n")
    chunk: dict[str, Any] = json.loads(frame.removeprefix(b"data: "))
    return chunk


Summary = dict[int, tuple[str, str, list[Any], list[Any], str]]


def assembled(chunks: list[dict[str, Any]]) -> tuple[Summary, Any]:
    """What chunks add up to: of each candidate the thoughts, text, calls, tokens and reason."""
    found: Summary = {}
    for chunk in chunks:
        SdkResponse.model_validate(chunk)
        assert (chunk["responseId"], bool(chunk["modelVersion"])) == ("chatcmpl-1", True)
        for index, one in summary(chunk)[0].items():
            before = found.get(index, ("", "", [], [], ""))
            joined: Any = tuple(cast("Any", a) + b for a, b in zip(before, one, strict=True))
            found[index] = joined
    return found, chunks[-1]["usageMetadata"]


def summary(reply: dict[str, Any]) -> tuple[Summary, Any]:
    found: Summary = {}
    for candidate in reply["candidates"]:
        parts = candidate["content"]["parts"]
        tokens = candidate.get("logprobsResult", {}).get("chosenCandidates", [])
        found[candidate["index"]] = (
            "".join(part["text"] for part in parts if part.get("thought")),
            "".join(part.get("text", "") for part in parts if not part.get("thought")),
            [part["functionCall"] for part in parts if "functionCall" in part],
            tokens,
            candidate.get("finishReason", ""),
        )
    return found, reply["usageMetadata"]


@pytest.mark.parametrize(
    ("written_text", "told"), [('"a \\"b\\""', 'a "b"'), ('"cut', '"cut'), ("5", "5")]
)
async def test_a_word_is_given_without_its_quotes(written_text: str, told: str) -> None:
    events = answer(written_text[:1], written_text[1:] or " ")
    whole = Encoder(unquoted=True, events=True).result(await fold(ScriptedGeneration(events)))
    frames = written(Encoder(unquoted=True, events=True), events)
    assert assembled([parsed(frame) for frame in frames])[0] == summary(json.loads(whole))[0]
    assert summary(json.loads(whole))[0][0][1].strip() == told


@given(events=generations(), thoughts=st.booleans())
async def test_any_stream_adds_up_to_the_whole(
    events: tuple[GenerationEvent, ...], thoughts: bool
) -> None:
    frames = written(Encoder(thoughts=thoughts, events=True), events)
    array = b"".join(written(Encoder(thoughts=thoughts, events=False), events))
    assert json.loads(array) == [parsed(frame) for frame in frames]
    body = Encoder(thoughts=thoughts, events=True).result(await fold(ScriptedGeneration(events)))
    assert assembled(json.loads(array)) == summary(json.loads(body))


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession")
async def test_googles_client_reads_a_stream_that_pings(tmp_path: Path) -> None:
    settings = ServerSettings(ping_after_s=0.05)
    async with (
        bench(tmp_path, server=settings) as service,
        serving(service.app, settings) as served,
    ):
        service.backend.slow_s = 0.5
        options = types.HttpOptions(base_url=f"http://127.0.0.1:{served.port}")
        client = genai.Client(api_key=KEY, http_options=options)
        chunks = await client.aio.models.generate_content_stream(model="acme/chat", contents="hi")
        assert "".join([chunk.text or "" async for chunk in chunks]) == "Hello there"
        await client.aio.aclose()
