"""Tool calls found in text, whole or in pieces, and text that only looks like one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    PartDelta,
    PartFinished,
    PartStarted,
)
from orchestrator.core.messages import Part, TextPart, ToolCallPart
from orchestrator.rendering.output_parsers import HermesParser

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
Shown = str | tuple[str, str]


def parse(
    text: str, reason: Literal["stop", "length"] = "stop", cuts: Sequence[int] = ()
) -> tuple[list[Shown], str, list[GenerationEvent]]:
    """The parts (a call as name and arguments), the reason, and all events."""
    parser = HermesParser(0)
    events: list[GenerationEvent] = []
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        events += parser.feed(text[start:end])
    events += parser.finish(reason)
    check_order(events)
    last = events[-1]
    assert isinstance(last, ChoiceFinished)
    parts = [shown(event.part) for event in events if isinstance(event, PartFinished)]
    return parts, last.reason, events


def shown(part: Part) -> Shown:
    if isinstance(part, ToolCallPart):
        assert part.id.startswith("call_")
        return part.name, part.arguments
    assert isinstance(part, TextPart)
    return part.text


def check_order(events: Sequence[GenerationEvent]) -> None:
    """At most one part open; its deltas add up to it."""
    open_kind, text = "", ""
    for event in events[:-1]:
        match event:
            case PartStarted(kind=kind):
                assert not open_kind
                open_kind, text = kind, ""
            case PartDelta(kind=kind, text=more):
                assert kind == open_kind
                assert more
                text += more
            case PartFinished(part=part):
                whole = part.arguments if isinstance(part, ToolCallPart) else part.text
                assert whole == text
                open_kind = ""
            case _:
                raise AssertionError(event)
    assert not open_kind


@given(cuts=st.lists(st.integers(0, 400), max_size=30))
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (CALL, [("weather", '{"city": "Oslo"}')]),
        (f"Let me see.\n{CALL}", ["Let me see.", ("weather", '{"city": "Oslo"}')]),
        (f"\n{CALL}\n{CALL}\n", [("weather", '{"city": "Oslo"}')] * 2),
        (f"{CALL}\n\nDone. ", [("weather", '{"city": "Oslo"}'), "Done. "]),
        (f"a <b> <tool_cal {CALL}", ["a <b> <tool_cal", ("weather", '{"city": "Oslo"}')]),
    ],
)
def test_calls_are_told_from_text_however_the_text_arrives(
    text: str, parts: list[Shown], cuts: list[int]
) -> None:
    assert parse(text, cuts=cuts)[:2] == (parts, "tool_calls")


@given(cuts=st.lists(st.integers(0, 400), max_size=30))
@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain text \n\n with space at the end \n ",
        "a < b and <tool_calls> and <tool_call",
        "<tool_call>not json</tool_call> after",
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>["name"]</tool_call>',
        "<tool_call>\nnever closed",
        "x" + " " * 600 + "y",
    ],
)
def test_what_is_no_call_stays_text(text: str, cuts: list[int]) -> None:
    assert parse(text, cuts=cuts)[:2] == ([text] if text else [], "stop")


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "f", "arguments": {"a":  [1, 2.50]}}', '{"a":  [1, 2.50]}'),
        ('{"arguments": {"a": "é"}, "name": "f"}', '{"a": "é"}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "f"}', "{}"),
    ],
)
def test_arguments_are_the_json_text_as_produced(body: str, arguments: str) -> None:
    parts, reason, _ = parse(f"<tool_call>{body}</tool_call>")
    assert (parts, reason) == ([("f", arguments)], "tool_calls")
    json.loads(arguments)


def test_a_call_that_was_cut_keeps_what_there_is_and_says_length() -> None:
    parts, reason, _ = parse('<tool_call>\n{"name": "f", "arguments": {"a": "hal', "length")
    assert (parts, reason) == ([("f", '{"a": "hal')], "length")


def test_a_call_cut_before_its_name_is_complete_stays_text() -> None:
    cut = '<tool_call>\n{"name": "f'
    assert parse(cut, "length")[:2] == ([cut], "length")
    bad = '<tool_call>{"name": "\\x", "arguments": {'
    assert parse(bad, "length")[:2] == ([bad], "length")


def test_a_call_without_its_closing_mark_is_still_a_call() -> None:
    unclosed = CALL.removesuffix("</tool_call>")
    assert parse(unclosed)[:2] == ([("weather", '{"city": "Oslo"}')], "tool_calls")


def test_a_whole_call_followed_by_a_cut_is_length() -> None:
    parts, reason, _ = parse(f"{CALL}\nand so", "length")
    assert (parts, reason) == ([("weather", '{"city": "Oslo"}'), "and so"], "length")


def test_text_is_not_held_back_longer_than_it_may_matter() -> None:
    parser = HermesParser(0)
    parser.feed("one")
    assert parser.feed(" two <tool") == [PartDelta(0, "text", " two")]
    assert parser.feed("box>") == [PartDelta(0, "text", " <toolbox>")]
