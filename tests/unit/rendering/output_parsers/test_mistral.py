"""Calls behind `[TOOL_CALLS]`: a list of them, or one by its name."""

from __future__ import annotations

import pytest

from orchestrator.rendering.output_parsers import output_parser
from tests.unit.rendering.output_parsers.readings import (
    TOOLS,
    Reading,
    Shown,
    letter_by_letter,
    read_every_way,
)

CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'
NAMED = '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}'
OSLO = ("weather", '{"city": "Oslo"}')


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"[TOOL_CALLS] [{CALL}]", [OSLO]),
        (f"[TOOL_CALLS][{CALL},\n {CALL}]", [OSLO, OSLO]),
        (f"Well. [TOOL_CALLS]{CALL}", ["Well.", OSLO]),
        (NAMED, [OSLO]),
        (f"Well.\n{NAMED}{NAMED} bye", ["Well.", OSLO, OSLO, "bye"]),
        (NAMED.replace("[ARGS]", ""), [OSLO]),
        (NAMED.replace("[ARGS]", " "), [OSLO]),
        (NAMED.replace("[ARGS]", "[CALL_ID]a1b2c3d4e[ARGS] "), [OSLO]),
        ('[TOOL_CALLS]f[ARGS]{"a": {"b": "}"}}', [("f", '{"a": {"b": "}"}}')]),
        (f"[TOOL_CALLS]so to say {NAMED}", ["[TOOL_CALLS]so to say", OSLO]),
    ],
)
def test_calls_are_found_however_the_text_arrives(text: str, parts: list[Shown]) -> None:
    assert read_every_way("mistral", text).result == (parts, "tool_calls")


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS]",
        "[TOOL_CALLS] ",
        "[TOOL_CALLS]weather",
        "[TOOL_CALLS]weather[ARGS",
        "[TOOL_CALLS]weather[ALL]{}",
        "[TOOL_CALLS][ARGS]{}",
        "[TOOL_CALLS]" + "w" * 300 + "[ARGS]{}",
        "[TOOL_CALLS][1, 2]",
        "[TOOLS] and [TOOL_CALL]",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read_every_way("mistral", text).result == ([text], "stop")


def test_a_named_call_is_given_out_from_its_arguments_on() -> None:
    told = letter_by_letter(output_parser(0, TOOLS, "mistral", "no"), NAMED)
    assert told == ["weather(", *'{"city": "Oslo"}', ")"]


@pytest.mark.parametrize(
    ("text", "arguments"), [(NAMED[:-2], '{"city": "Oslo'), ("[TOOL_CALLS]weather[ARGS]", "")]
)
def test_a_call_that_was_cut_says_length(text: str, arguments: str) -> None:
    assert Reading("mistral", text, "length").result == ([("weather", arguments)], "length")


def test_a_call_without_arguments_has_empty_ones() -> None:
    assert Reading("mistral", "[TOOL_CALLS]f[ARGS]").result == ([("f", "{}")], "tool_calls")
