"""Calls between `<tool_call>` and `</tool_call>`, and text that only looks like one."""

from __future__ import annotations

import pytest

from orchestrator.core.events import PartDelta
from orchestrator.rendering.output_parsers import output_parser
from tests.unit.rendering.conftest import asking
from tests.unit.rendering.output_parsers.readings import (
    TOOLS,
    Reading,
    Shown,
    letter_by_letter,
    read_every_way,
)

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
OSLO = ("weather", '{"city": "Oslo"}')


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (CALL, [OSLO]),
        (f"Let me see.\n{CALL}", ["Let me see.", OSLO]),
        (f"\n{CALL}\n{CALL}\n", [OSLO, OSLO]),
        (f"{CALL}\n\nDone. ", [OSLO, "Done. "]),
        (f"a <b> <tool_cal {CALL}", ["a <b> <tool_cal", OSLO]),
        (f"{CALL}{CALL} and {CALL}", [OSLO, OSLO, "and", OSLO]),
        (CALL.replace("}}", "}}}"), [OSLO]),
        (CALL.replace("</tool_call>", CALL), [OSLO, OSLO]),
        (CALL.replace("\n</tool_call>", " <b>"), [OSLO, "<b>"]),
        ('<tool_call>[{"name": "f"}, {"name": "g"}]</tool_call>', [("f", "{}"), ("g", "{}")]),
        (
            CALL.replace('{"city": "Oslo"}', '{"a": "{[\\"}</tool_call>", "b": {"c": [1]}}'),
            [("weather", '{"a": "{[\\"}</tool_call>", "b": {"c": [1]}}')],
        ),
    ],
)
def test_calls_are_told_from_text_however_the_text_arrives(text: str, parts: list[Shown]) -> None:
    assert read_every_way("hermes", text).result == (parts, "tool_calls")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain text \n\n with space at the end \n ",
        " \n ",
        "a < b and <tool_calls> and <tool_call",
        "<tool_call>not json</tool_call> after",
        "<tool_call></tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": ""}</tool_call>',
        '<tool_call>{"name": 7}</tool_call>',
        '<tool_call>{"name": "\\ud800"}</tool_call>',
        '<tool_call>{"name" "f"}</tool_call>',
        '<tool_call>{"name": "' + "f" * 300 + '"}</tool_call>',
        '<tool_call>["name"]</tool_call>',
        "<tool_call>\nnever closed",
        "<tool_call>",
        "x" + " " * 600 + "y",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read_every_way("hermes", text).result == ([text] if text else [], "stop")


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "f", "arguments": {"a":  [1, 2.50]}}', '{"a":  [1, 2.50]}'),
        ('{"arguments": {"a": "é"}, "name": "f"}', '{"a": "é"}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "f", "arguments": "\\x"}', '"\\x"'),
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": null}', "null"),
        ('{"type": "function", "id": 7, "name": "f", "parameters": {}, "name": "g"}', "{}"),
        ('{"name": "f", "arguments": {"a": 1}, "parameters": {"b": 2}}', '{"a": 1}'),
    ],
)
def test_arguments_are_the_json_text_as_produced(body: str, arguments: str) -> None:
    reading = read_every_way("hermes", f"<tool_call>{body}</tool_call>")
    assert reading.result == ([("f", arguments)], "tool_calls")


def test_a_call_is_given_out_while_it_is_written() -> None:
    told = letter_by_letter(output_parser(0, TOOLS, "hermes", "no"), f"Well {CALL}")
    assert told == [*"Well", "weather(", *'{"city": "Oslo"}', ")"]


def test_a_call_that_was_cut_keeps_what_there_is_and_says_length() -> None:
    cut = '<tool_call>\n{"name": "f", "arguments": {"a": "hal'
    assert read_every_way("hermes", cut, "length").result == ([("f", '{"a": "hal')], "length")


@pytest.mark.parametrize(
    ("cut", "arguments"),
    [
        ('<tool_call>{"name": "f"', ""),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1', '{"a": 1'),
        ('<tool_call>{"name": "f", "arguments": {}}</tool_', "{}"),
    ],
)
def test_a_call_whose_name_is_known_stays_a_call_when_cut(cut: str, arguments: str) -> None:
    assert Reading("hermes", cut, "length").result == ([("f", arguments)], "length")


def test_a_call_cut_before_its_name_is_complete_stays_text() -> None:
    for cut in ('<tool_call>\n{"name": "f', '<tool_call>{"name": "\\x", "arguments": {'):
        assert Reading("hermes", cut, "length").result == ([cut], "length")


def test_a_call_without_its_closing_mark_is_still_a_call() -> None:
    assert Reading("hermes", CALL.removesuffix("</tool_call>")).result == ([OSLO], "tool_calls")
    stopped = Reading("hermes", '<tool_call>{"name": "f"')
    assert stopped.result == ([("f", "{}")], "tool_calls")


def test_a_whole_call_followed_by_a_cut_is_length() -> None:
    assert Reading("hermes", f"{CALL}\nand so", "length").result == ([OSLO, "and so"], "length")


def test_what_breaks_off_behind_a_known_name_is_text_again() -> None:
    reading = Reading("hermes", '<tool_call>{"name": "f", oops}</tool_call>')
    assert reading.parts == [("f", ""), "oops}</tool_call>"]


def test_text_is_not_held_back_longer_than_it_may_matter() -> None:
    parser = output_parser(0, TOOLS, "hermes", "no")
    parser.feed("one")
    assert parser.feed(" two <tool") == [PartDelta(0, "text", " two")]
    assert parser.feed("box>") == [PartDelta(0, "text", " <toolbox>")]


def test_without_tools_a_call_is_text() -> None:
    assert Reading("hermes", CALL, request=asking()).result == ([CALL], "stop")
    assert Reading("plain", CALL).result == ([CALL], "stop")
    forbidden = asking("weather", mode="none")
    assert Reading("qwen", CALL, request=forbidden).result == ([CALL], "stop")
