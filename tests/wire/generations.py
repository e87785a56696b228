"""Generations for the encoders of all dialects: one that is known, and any made at random."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

from hypothesis import strategies as st

from orchestrator.core.events import (
    ChoiceFinished,
    FinishReason,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartKind,
    PartStarted,
    Usage,
)
from orchestrator.core.messages import Part, ReasoningPart, TextPart, ToolCallPart

STARTED = GenerationStarted("chatcmpl-1", 'acme/ch"at\né', 1_700_000_000, 9)
CALL = ToolCallPart("call_1", "weather", '{"city":"Zürich"}')
TWO_CALLS: tuple[GenerationEvent, ...] = (
    STARTED,
    PartStarted(0, "text"),
    PartDelta(0, "text", "Let me see."),
    PartFinished(0, TextPart("Let me see.")),
    PartStarted(0, "tool_call", CALL.id, CALL.name),
    PartDelta(0, "tool_call", CALL.arguments[:5]),
    PartDelta(0, "tool_call", CALL.arguments[5:]),
    PartFinished(0, CALL),
    PartStarted(0, "tool_call", "call_2", "now"),
    PartFinished(0, ToolCallPart("call_2", "now", "")),
    ChoiceFinished(0, "tool_calls"),
    GenerationFinished(Usage(9, 20)),
)
"""What every dialect writes down: text, then a call in pieces, then one without arguments."""
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
ARGUMENTS = st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers(0, 9), st.none()), max_size=3)


@st.composite
def generations(draw: st.DrawFn) -> tuple[GenerationEvent, ...]:
    """The events of a generation of one choice, whose calls are complete."""
    kinds = draw(st.lists(st.sampled_from(get_args(PartKind)), max_size=5))
    events = [event for index, kind in enumerate(kinds) for event in _part(draw, index, kind)]
    others: list[FinishReason] = ["stop", "length", "content_filter"]
    reason: FinishReason = draw(st.sampled_from(others))
    if "tool_call" in kinds:
        reason = "tool_calls"
    sequence = draw(st.none() | TEXTS) if reason == "stop" else None
    return (
        GenerationStarted("chatcmpl-1", "acme/chat", 1_700_000_000, 9),
        *events,
        ChoiceFinished(0, reason, sequence),
        GenerationFinished(Usage(9, 20, draw(st.integers(0, 9)), draw(st.integers(0, 20)))),
    )


def _part(draw: st.DrawFn, index: int, kind: PartKind) -> Iterator[GenerationEvent]:
    part: Part
    if kind == "tool_call":
        text = json.dumps(draw(ARGUMENTS), ensure_ascii=draw(st.booleans()))
        part = ToolCallPart(f"call_{index}", "f", text)
        yield PartStarted(0, kind, part.id, part.name)
    else:
        text = draw(TEXTS)
        part = TextPart(text) if kind == "text" else ReasoningPart(text)
        yield PartStarted(0, kind)
    for piece in _pieces(draw, text):
        yield PartDelta(0, kind, piece)
    yield PartFinished(0, part)


def _pieces(draw: Any, text: str) -> list[str]:
    places = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=4)))
    cuts = [0, *places, len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if text[a:b]]
