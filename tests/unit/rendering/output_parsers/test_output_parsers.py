"""What holds for every parser: no piece of text surprises it, and no cut changes its mind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract.catalogue import Parser
from orchestrator.core.messages import Message, TextPart
from orchestrator.core.request import ChatPrompt, GenerationRequest, TextPrompt, ToolMode
from orchestrator.rendering.output_parsers import EndReason, output_parser
from orchestrator.rendering.output_parsers.reasoning import Thinking
from tests.unit.rendering.conftest import asking
from tests.unit.rendering.output_parsers.readings import TOOLS, Reading, read_every_way

pytestmark = pytest.mark.slow

PARSERS: tuple[Parser, ...] = get_args(Parser)
FRAGMENTS = [
    '{"name": "f", "arguments": {"a": 1}}', "f[ARGS]{}", "f(a=1)\n",
    "call:f{a:1,b:<escape>x<escape>}",
    'call:g{a:<|"|>x<|"|>}', "</think>\n\n",
    "<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]",
    "```tool_code", "```tool_call", "```", "<start_function_call>", "<end_function_call>",
    "<escape>", "<|tool_call>", "<tool_call|>", '<|"|>', "call:", "<think>", "</think>",
    '{"name": "f"', '"arguments": ', '"parameters": ', '{"a": 1}', '"name"', "weather", "f", "(",
    ")", "{", "}", "[", "]", '"', "\\", ":", ",", ";", " ", "\n", "a=1", "null", "-1.5", "é", "😀",
]  # fmt: skip
ANSWERS = st.lists(
    st.sampled_from(FRAGMENTS)
    | st.text(max_size=3)
    | st.sampled_from(FRAGMENTS).map(lambda x: x[:-1]),
    max_size=24,
).map("".join)
MODES: tuple[ToolMode, ...] = get_args(ToolMode)


@pytest.mark.parametrize("parser", PARSERS)
@given(
    text=ANSWERS,
    cuts=st.lists(st.integers(0, 400), max_size=60),
    mode=st.sampled_from(MODES),
    parallel=st.booleans(),
    thinking=st.sampled_from(get_args(Thinking)),
    reason=st.sampled_from(get_args(EndReason)),
)
def test_no_answer_raises_and_no_cut_changes_what_it_is(
    parser: Parser,
    text: str,
    cuts: list[int],
    mode: ToolMode,
    parallel: bool,
    thinking: Thinking,
    reason: EndReason,
) -> None:
    request = asking("f", "weather", mode=mode, parallel=parallel)
    whole = Reading(parser, text, reason, request=request, thinking=thinking)
    for places in (cuts, range(len(text))):
        pieces = Reading(parser, text, reason, cuts=places, request=request, thinking=thinking)
        assert pieces.result == whole.result
        assert pieces.ended == whole.ended


@pytest.mark.parametrize("parser", PARSERS)
@given(text=st.text(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=9))
def test_text_without_markers_is_text(parser: Parser, text: str, cuts: list[int]) -> None:
    assert Reading(parser, text, cuts=cuts).result == ([text] if text else [], "stop")


@pytest.mark.parametrize(
    ("parser", "call"),
    [
        ("hermes", '<tool_call>{"name": "f"}</tool_call>'),
        ("llama3", '{"name": "f"};'),
        ("mistral", '[TOOL_CALLS][{"name": "f"}]'),
        ("mistral", "[TOOL_CALLS]f[ARGS]{}"),
        ("gemma", '```tool_call\n[{"name": "f"}]\n```'),
        ("gemma", "```tool_code\n[f(), f()]\n```"),
        ("gemma", "<|tool_call>call:f{}<tool_call|>"),
    ],
)
def test_only_the_first_call_counts_where_they_may_not_be_parallel(
    parser: Parser, call: str
) -> None:
    reading = read_every_way(parser, call * 3 + "bye", request=asking("f", parallel=False))
    assert reading.result == ([("f", "{}")], "tool_calls")
    assert reading.ended


@pytest.mark.parametrize("parser", PARSERS)
def test_an_answer_in_json_is_text(parser: Parser) -> None:
    assert Reading(parser, '{"city": "Oslo"}').result == (['{"city": "Oslo"}'], "stop")


CALL = '{"name": "f", "arguments": {"a": "b"}}'
LONG: Sequence[tuple[Parser, str, str, str]] = [
    ("plain", "", "text ", ""),
    ("hermes", "", "text < ", ""),
    ("hermes", "x", " ", ""),
    ("hermes", "", "<tool_call>", ""),
    ("hermes", "", "<tool_call>" + CALL, ""),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "', "\\\\x", '"}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": "', 'x\\"', '"}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": ', "[", ""),
    ("hermes", '<tool_call>{"x": "', "y", '"}'),
    ("hermes", '<tool_call>{"', "y", ""),
    ("llama3", CALL, ";" + CALL, ""),
    ("mistral", "[TOOL_CALLS][" + CALL, "," + CALL, "]"),
    ("mistral", "", '[TOOL_CALLS]f[ARGS]{"a": 1} ', ""),
    ("mistral", "[TOOL_CALLS]", "f", ""),
    ("gemma", "```tool_code\n[", " ", ""),
    ("gemma", "```tool_code\nf(a='", "x`", "')\n```"),
    ("gemma", "<|tool_call>call:f{", "a:<|", "}"),
    ("gemma", "<|tool_call>call:f{a:", "[", ""),
]


@pytest.mark.parametrize(("parser", "start", "unit", "end"), LONG)
def test_time_grows_with_the_answer_and_no_faster(
    parser: Parser, start: str, unit: str, end: str
) -> None:
    def spent(length: int) -> float:
        text = start + unit * (length // len(unit)) + end
        reader = output_parser(0, TOOLS, parser, "undecided")
        begun = time.process_time()
        for at in range(0, len(text), 3):
            reader.feed(text[at : at + 3])
        reader.finish("stop")
        return time.process_time() - begun

    # Sixteen times the text: quadratic work would take 256 times as long.
    assert spent(160_000) < 90 * min(spent(10_000) for _ in range(3))


@pytest.mark.parametrize(("parser", "start", "unit", "end"), LONG)
def test_much_at_once_is_read_as_much_in_pieces(
    parser: Parser, start: str, unit: str, end: str
) -> None:
    size = 50_000 if "[" in unit or "{" in unit else 1_000_000
    text = start + unit * (size // len(unit)) + end
    whole = Reading(parser, text)
    pieces = Reading(parser, text, cuts=range(0, len(text), 9_999))
    assert pieces.result == whole.result


def test_tools_count_only_in_conversations() -> None:
    text = f"<tool_call>{CALL}</tool_call>"
    for prompt in (TextPrompt("x"), ChatPrompt((Message("user", (TextPart("x"),)),))):
        request = GenerationRequest("m", prompt)
        assert Reading("hermes", text, request=request).result == ([text], "stop")
