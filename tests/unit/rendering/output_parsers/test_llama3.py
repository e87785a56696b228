"""Calls as JSON behind `<|python_tag|>` or bare, and JSON that is an answer."""

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

CALL = '{"name": "weather", "parameters": {"city": "Oslo"}}'
OSLO = ("weather", '{"city": "Oslo"}')


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (CALL, [OSLO]),
        (f"\n {CALL}\n", [OSLO]),
        (f"{CALL}; {CALL};{CALL}", [OSLO, OSLO, OSLO]),
        (f"<|python_tag|>{CALL}", [OSLO]),
        (f"Let me see. <|python_tag|>{CALL}; {CALL}", ["Let me see.", OSLO, OSLO]),
        ('<|python_tag|>{"name": "other", "parameters": {}}', [("other", "{}")]),
        (f"{CALL} That is all.", [OSLO, "That is all."]),
        (f'{CALL}; {{"name": "nobody"}}', [OSLO, '{"name": "nobody"}']),
        ('{"type": "function", "name": "f", "parameters": {"a": ";"}}', [("f", '{"a": ";"}')]),
    ],
)
def test_calls_are_found_however_the_text_arrives(text: str, parts: list[Shown]) -> None:
    assert read_every_way("llama3", text).result == (parts, "tool_calls")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Bob", "age": 3}',
        '{"city": "Oslo"}',
        f"The call would be {CALL}",
        "{not json",
        '<|python_tag|>print("hello")',
        '["weather"]',
    ],
)
def test_json_that_calls_no_known_tool_is_an_answer(text: str) -> None:
    assert read_every_way("llama3", text).result == ([text], "stop")


def test_a_bare_call_is_given_out_from_its_name_on() -> None:
    told = letter_by_letter(output_parser(0, TOOLS, "llama3", "no"), CALL)
    assert told == ["weather(", *'{"city": "Oslo"}', ")"]


def test_a_call_that_was_cut_says_length() -> None:
    cut = Reading("llama3", CALL[:-4], "length")
    assert cut.result == ([("weather", '{"city": "Osl')], "length")
