"""One generation in every dialect: what a client puts together is what the model wrote."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.backends.scripted import ScriptedGeneration
from orchestrator.core.events import (
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
    fold,
)
from orchestrator.core.messages import Message, ReasoningPart, TextPart, Tool, ToolCallPart
from orchestrator.core.request import ChatPrompt, GenerationRequest
from orchestrator.rendering.output_parsers import output_parser
from tests.wire import encoders
from tests.wire.encoders import DIALECTS, Told

USAGE = Usage(prompt_tokens=11, completion_tokens=7, cached_tokens=3, reasoning_tokens=2)
STARTED = GenerationStarted("chatcmpl-1", "acme/chat", 1, 11)
TOOLS = (Tool("weather", "", {"type": "object"}),)
ASKED = GenerationRequest(
    "acme/chat", ChatPrompt((Message("user", (TextPart("hi"),)),), TOOLS), reasoning="low"
)

words = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\{}<>/\n\r\u2028é漢😀'),
    max_size=30,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(words, values, max_size=3)
cuts = st.lists(st.integers(0, 200), max_size=12)


def pieces(text: str, places: Sequence[int]) -> list[str]:
    """`text` cut at `places`, without empty pieces."""
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    found = [text[begin:end] for begin, end in pairwise(ends)]
    return [piece for piece in found if piece]


def written(text: str, places: Sequence[int], reason: str = "stop") -> list[GenerationEvent]:
    """The events of a model of the hermes family that writes `text` in those pieces."""
    parser = output_parser(0, ASKED, "hermes", "undecided")
    events: list[GenerationEvent] = [STARTED]
    for piece in pieces(text, places):
        events += parser.feed(piece)
    events += parser.finish("length" if reason == "length" else "stop")
    return [*events, GenerationFinished(USAGE)]


def completion_of(events: Sequence[GenerationEvent]) -> Completion:
    return asyncio.run(fold(ScriptedGeneration(events)))


def truth(completion: Completion) -> Told:
    """What every client is to have."""
    (choice,) = completion.choices
    told = Told(reason=choice.reason, tokens=(11, 7))
    for part in choice.parts:
        match part:
            case TextPart(text=text):
                told.text += text
            case ReasoningPart(text=text):
                told.reasoning += text
            case ToolCallPart():
                told.calls.append((part.name, part.arguments))
    return told


def same(found: Told, wanted: Told, dialect: str) -> None:
    """Arguments that a dialect tells as objects are compared as such."""
    if dialect == "realtime":
        # It has no place for thoughts.
        wanted = Told(wanted.text, "", wanted.calls, wanted.reason, wanted.tokens)
    assert [name for name, _ in found.calls] == [name for name, _ in wanted.calls]
    assert [_read(text) for _, text in found.calls] == [_read(text) for _, text in wanted.calls]
    if dialect in ("chat", "responses"):
        assert found.calls == wanted.calls
    assert (found.text, found.reasoning) == (wanted.text, wanted.reasoning)
    assert (found.reason, found.tokens) == (wanted.reason, wanted.tokens)


def _read(text: str) -> Any:
    return json.loads(text or "{}")


def answer(thought: str, text: str, calls: Sequence[dict[str, Any]]) -> str:
    """An answer as models of the hermes family write it."""
    lines = [
        f"<tool_call>\n{json.dumps({'name': 'weather', 'arguments': call})}\n</tool_call>"
        for call in calls
    ]
    return f"<think>{thought}</think>\n\n{text}" + "\n".join(lines)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(thought=words, text=words, calls=st.lists(arguments, max_size=3), places=cuts)
@settings(max_examples=60, deadline=None)
def test_whatever_is_written_and_however_it_comes(
    dialect: str, thought: str, text: str, calls: list[dict[str, Any]], places: list[int]
) -> None:
    events = written(answer(thought, text, calls), places)
    completion = completion_of(events)
    for found in DIALECTS[dialect](events, completion):
        same(found, truth(completion), dialect)


@pytest.mark.parametrize("dialect", ["chat", "responses"])
@given(call=arguments, places=cuts, keep=st.integers(40, 200))
@settings(max_examples=40, deadline=None)
def test_a_call_that_is_cut_stays_cut(
    dialect: str, call: dict[str, Any], places: list[int], keep: int
) -> None:
    events = written(answer("", "", [call])[:keep], places, reason="length")
    completion = completion_of(events)
    wanted = truth(completion)
    for found in DIALECTS[dialect](events, completion):
        assert (found.calls, found.text, found.reason) == (wanted.calls, wanted.text, "length")


@given(text=words, places=cuts, reason=st.sampled_from(["stop", "length"]))
@settings(max_examples=60, deadline=None)
def test_plain_text_is_the_same_in_completions(
    text: str, places: list[int], reason: FinishReason
) -> None:
    request = GenerationRequest("acme/chat", ChatPrompt(()))
    parser = output_parser(0, request, "plain", "no")
    events: list[GenerationEvent] = [STARTED]
    for piece in pieces(text, places):
        events += parser.feed(piece)
    events += [*parser.finish("length" if reason == "length" else "stop")]
    events.append(GenerationFinished(USAGE))
    completion = completion_of(events)
    for read in (encoders.completions, encoders.chat):
        for found in read(events, completion):
            same(found, Told(text, reason=reason, tokens=(11, 7)), "completions")


@pytest.mark.parametrize("make", encoders.ENCODERS.values(), ids=encoders.ENCODERS)
def test_a_megabyte_takes_time_in_proportion(make: Callable[[], encoders.Encodes]) -> None:
    """Sixteen times the text must cost far less than its square would, 256 times as much."""
    piece = "abcdefgh" * 16

    def cost(count: int) -> float:
        events: list[GenerationEvent] = [STARTED, PartStarted(0, "text")]
        events += [PartDelta(0, "text", piece)] * count
        events += [PartFinished(0, TextPart(piece * count)), ChoiceFinished(0, "stop")]
        events.append(GenerationFinished(USAGE))
        encoder = make()
        began_at = time.process_time()
        for event in events:
            list(encoder.event(event))
        return time.process_time() - began_at

    small = min(cost(500) for _ in range(3))
    assert min(cost(8_000) for _ in range(3)) < 90 * max(small, 0.0005)
