"""Thoughts before the answer, with any way of calling tools behind them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.request import JsonFormat
from orchestrator.rendering.output_parsers import output_parser
from tests.unit.rendering.conftest import asking
from tests.unit.rendering.output_parsers.readings import TOOLS, Reading, Shown, read_every_way

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>\nhm, so\n</think>\n\nHello ", ["thinks hm, so", "Hello "]),
        ("\n<think>hm</think>", ["thinks hm"]),
        ("<think>\n\n</think>\n\nHello", ["Hello"]),
        ("<think>a <b> </thin </think>x", ["thinks a <b> </thin", "x"]),
        ("<think>hm <tool_call></think>x", ["thinks hm <tool_call>", "x"]),
        ("<think>hm", ["thinks hm"]),
        ("<think>hm</thi", ["thinks hm</thi"]),
        (" Hello <think>no</think>", [" Hello <think>no</think>"]),
        ("<thin", ["<thin"]),
        (" " * 300 + "<think>x", [" " * 300 + "<think>x"]),
        ("", []),
    ],
)
def test_thoughts_are_told_from_the_answer(text: str, parts: list[Shown]) -> None:
    for request in (asking(), TOOLS):
        reading = read_every_way("hermes", text, request=request, thinking="undecided")
        assert reading.result == (parts, "stop")


def test_the_prompt_may_have_opened_the_thoughts() -> None:
    text = f"hm\n</think>\n\nWell. {CALL}\n"
    reading = read_every_way("hermes", text, thinking="yes")
    assert reading.result == (["thinks hm", "Well.", ("f", '{"a": 1}')], "tool_calls")


def test_a_bare_call_may_follow_thoughts() -> None:
    text = '<think>hm</think>\n{"name": "f", "parameters": {}}'
    reading = read_every_way("llama3", text, thinking="undecided")
    assert reading.result == (["thinks hm", ("f", "{}")], "tool_calls")


def test_thoughts_that_were_cut_say_length() -> None:
    reading = Reading("plain", "hm ", "length", thinking="yes")
    assert reading.result == (["thinks hm"], "length")


def test_an_answer_held_to_json_has_no_thoughts() -> None:
    request = replace(asking(), response_format=JsonFormat())
    assert Reading("plain", '{"a": 1}', request=request, thinking="yes").parts == ['{"a": 1}']


def test_whether_the_model_thinks_is_told_as_soon_as_it_is_known() -> None:
    parser = output_parser(0, asking(), "plain", "undecided")
    told = []
    for piece in ("<th", "ink>", "hm", "</think", ">", "x"):
        parser.feed(piece)
        told.append(parser.thinking)
    assert told == ["undecided", "yes", "yes", "yes", "no", "no"]
    assert not parser.is_stepwise
