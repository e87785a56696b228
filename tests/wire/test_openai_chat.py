"""OpenAI's chat dialect: events to bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
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
from orchestrator.wire.openai.chat.routes import Encoder
from tests.wire.generations import CALL, STARTED, TWO_CALLS
from tests.wire.golden import check
from tests.wire.harness import answer

DRAWN = TokenLogprob(7, b"Hi", -0.25, (LikelyToken(7, b"Hi", -0.25), LikelyToken(8, b"\xf0", -2)))
PATCH = '{"input": "+\\u00e9 \\"a\\"\\n"}'
HALVES = (TokenLogprob(1, "é".encode()[:1], -1), TokenLogprob(2, "é".encode()[1:], -math.inf))
STREAMS: dict[str, tuple[GenerationEvent, ...]] = {
    "text": answer("Your", " data", "\n\"stays\" \\ here: é 東 😀"),
    "nothing": (STARTED, ChoiceFinished(0, "length"), GenerationFinished(Usage(9, 0, 4, 0))),
    "two calls": TWO_CALLS,
    "reasoning": (
        STARTED,
        PartStarted(0, "reasoning"),
        PartDelta(0, "reasoning", "hm"),
        PartFinished(0, ReasoningPart("hm")),
        PartStarted(0, "text"),
        PartDelta(0, "text", "Yes."),
        PartFinished(0, TextPart("Yes.")),
        ChoiceFinished(0, "stop"),
        GenerationFinished(Usage(9, 3, 0, 1)),
    ),
    "log probabilities": (
        STARTED,
        PartStarted(0, "text"),
        PartDelta(0, "text", "Hi", (DRAWN,)),
        PartDelta(0, "text", "é", HALVES),
        PartFinished(0, TextPart("Hié")),
        ChoiceFinished(0, "stop", logprobs=(DRAWN,)),
        GenerationFinished(Usage(9, 4)),
    ),
    "older calls": (
        STARTED,
        PartStarted(0, "tool_call", CALL.id, CALL.name),
        PartDelta(0, "tool_call", CALL.arguments),
        PartFinished(0, CALL),
        ChoiceFinished(0, "tool_calls"),
        GenerationFinished(Usage(9, 20)),
    ),
    "custom calls": (
        STARTED,
        PartStarted(0, "tool_call", "call_1", "apply_patch"),
        PartDelta(0, "tool_call", '{"inp'),
        PartDelta(0, "tool_call", 'ut": "+\\u00e9 '),
        PartDelta(0, "tool_call", '\\"a\\"\\n"}'),
        PartFinished(0, ToolCallPart("call_1", "apply_patch", PATCH)),
        PartStarted(0, "tool_call", "call_2", "apply_patch"),
        PartDelta(0, "tool_call", "bare"),
        PartFinished(0, ToolCallPart("call_2", "apply_patch", "bare")),
        PartStarted(0, "tool_call", CALL.id, CALL.name),
        PartDelta(0, "tool_call", CALL.arguments),
        PartFinished(0, CALL),
        ChoiceFinished(0, "tool_calls"),
        GenerationFinished(Usage(9, 20)),
    ),
    "two choices": (
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
}  # fmt: skip


def encoder(name: str, *, include_usage: bool = False) -> Encoder:
    choices = 2 if name == "two choices" else 1
    return Encoder(
        choices=choices,
        include_usage=include_usage,
        fingerprint="fp_test",
        log_probs=name == "log probabilities",
        older_calls=name == "older calls",
        custom_tools=frozenset(["apply_patch"] if name == "custom calls" else ()),
    )


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_events_become_these_very_bytes(name: str, include_usage: bool) -> None:
    written = encoder(name, include_usage=include_usage)
    frames = [frame for event in STREAMS[name] for frame in written.event(event)]
    file = name.replace(" ", "_") + ("_with_usage" if include_usage else "")
    check(f"chat/streams/{file}.sse", b"".join(frames))
    check_frames(frames, include_usage=include_usage)


@pytest.mark.parametrize("name", STREAMS)
async def test_the_whole_answer_becomes_these_very_bytes(name: str) -> None:
    completion = await fold(ScriptedGeneration(STREAMS[name]))
    check(f"chat/results/{name.replace(' ', '_')}.json", encoder(name).result(completion))


@pytest.mark.parametrize("profile", ["appliance", "spec", "platform"])
def test_an_error_after_the_first_byte_ends_the_stream_in_the_callers_words(profile: Any) -> None:
    written = encoder("text", include_usage=True)
    frames = [frame for event in STREAMS["text"][:4] for frame in written.event(event)]
    members = error_members(ModelUnavailable("The engine stopped: é."), profile, "req_1")
    frames += written.error(members)
    check(f"chat/streams/error_{profile}.sse", b"".join(frames))
    check_frames(frames, include_usage=True)


def test_an_error_before_any_event_is_a_chunk_all_the_same() -> None:
    frames = encoder("text").error(error_members(ModelUnavailable("x"), "appliance", "req_1"))
    chunk = json.loads(frames[0][6:])
    assert chunk["choices"][0]["finish_reason"] == "error"
    assert chunk["error"]["code"] == "model_unavailable"


def check_frames(frames: Sequence[bytes], *, include_usage: bool) -> None:
    """What the plainest clients rely on: one line an event, LF, ASCII, choices, no null content."""
    assert frames[-1] == b"data: [DONE]\n\n"
    for frame in frames[:-1]:
        assert frame.startswith(b"data: {")
        assert frame.endswith(b"}\n\n")
        assert frame.count(b"\n") == 2
        assert frame.isascii()
        assert b"\r" not in frame
        chunk = json.loads(frame[6:])
        assert ("usage" in chunk) == include_usage
        if not chunk["choices"]:
            assert include_usage
            assert frame is frames[-2]
            continue
        delta = chunk["choices"][0].get("delta", {})
        assert delta.get("content", "") is not None


@given(texts=st.lists(st.text(min_size=1, max_size=8), max_size=6))
def test_any_text_survives_the_stream(texts: list[str]) -> None:
    written = encoder("text")
    frames = [frame for event in answer(*texts) for frame in written.event(event)]
    check_frames(frames, include_usage=False)
    chunks = [json.loads(frame[6:]) for frame in frames[:-1]]
    seen = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert seen == "".join(texts)
