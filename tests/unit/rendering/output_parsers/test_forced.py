"""Answers of engines that are held to JSON: nothing but calls."""

from __future__ import annotations

from orchestrator.core.request import ToolMode
from orchestrator.rendering.output_parsers import is_held_to_json, output_parser
from tests.unit.rendering.conftest import asking
from tests.unit.rendering.output_parsers.readings import Reading, letter_by_letter, read_every_way

REQUIRED = asking("f", "g", mode="required")
NAMED = asking("f", "g", mode="named")
CALLS = '[{"name": "f", "parameters": {"a": "]"}},\n {"name": "g", "parameters": {}}]'


def test_a_list_of_calls_is_parallel_calls() -> None:
    reading = read_every_way("plain", CALLS, request=REQUIRED)
    assert reading.result == ([("f", '{"a": "]"}'), ("g", "{}")], "tool_calls")


def test_one_call_is_enough_where_they_may_not_be_parallel() -> None:
    request = asking("f", mode="required", parallel=False)
    reading = read_every_way("hermes", CALLS, request=request)
    assert reading.result == ([("f", '{"a": "]"}')], "tool_calls")
    assert reading.ended


def test_arguments_alone_are_a_call_of_the_named_tool() -> None:
    reading = read_every_way("mistral", ' {"a": [1, "}"]} \n', request=NAMED)
    assert reading.result == ([("f", '{"a": [1, "}"]}')], "tool_calls")


def test_forced_calls_are_given_out_while_they_are_written() -> None:
    told = letter_by_letter(output_parser(0, REQUIRED, "plain", "no"), CALLS)
    assert told == ["f(", *'{"a": "]"}', ")", "g(", *"{}", ")"]
    told = letter_by_letter(output_parser(0, NAMED, "plain", "no"), '{"a": 1}')
    assert told == ["f(", *'{"a": 1}', ")"]


def test_a_forced_call_that_was_cut_says_length_and_is_never_text() -> None:
    kept = {32: [("f", '{"a')], 12: []}
    for length, parts in kept.items():
        reading = Reading("plain", CALLS[:length], "length", request=REQUIRED)
        assert reading.result == (parts, "length")
    assert Reading("plain", '{"a": 1', "length", request=NAMED).parts == [("f", '{"a": 1')]
    assert Reading("plain", " ", "length", request=NAMED).result == ([], "length")


def test_what_is_held_to_json_has_no_reasoning() -> None:
    modes: dict[ToolMode, bool] = {"auto": False, "none": False, "required": True, "named": True}
    assert {mode: is_held_to_json(asking("f", mode=mode)) for mode in modes} == modes
    reading = Reading("plain", '{"a": "<think>"}', request=NAMED, thinking="yes")
    assert reading.parts == [("f", '{"a": "<think>"}')]
