"""Calls in fences, as JSON or as Python, and in the notation of Gemma's tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
NOTED = "<start_function_call>call:weather{city:<escape>Oslo<escape>}<end_function_call>"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"```tool_code\n{CALL}\n```", [OSLO]),
        (f"Well.\n```tool_call\n[{CALL}, {CALL}]\n```\nbye", ["Well.", OSLO, OSLO, "bye"]),
        ('```tool_code\nweather(city="Oslo")\n```', [OSLO]),
        ("```tool_code\n[weather(city='Oslo'), f()]\n```", [OSLO, ("f", "{}")]),
        (
            "```tool_code\nf(a=1, b=[True, None], c={'d': -2.5})\nns.g(s='\\d')\n```",
            [("f", '{"a": 1, "b": [true, null], "c": {"d": -2.5}}'), ("ns.g", '{"s": "\\\\d"}')],
        ),
        ("```tool_code\nf(a=1)", [("f", '{"a": 1}')]),
        (NOTED, [OSLO]),
        (f"Well. {NOTED}\n{NOTED} bye", ["Well.", OSLO, OSLO, "bye"]),
        (NOTED.replace("<end_function_call>", " "), [OSLO]),
        ('<|tool_call>call:weather{city:<|"|>Oslo<|"|>}<tool_call|>', [OSLO]),
        (
            "<|tool_call>call:f{a:1,b:-2.5e3,c:true,e:[1,[2]],g:{h:{}},i:Oslo, j : 012}",
            [
                (
                    "f",
                    (
                        '{"a": 1, "b": -2.5e3, "c": true, "e": [1, [2]], "g": {"h": {}}, '
                        '"i": "Oslo", "j": "012"}'
                    ),
                )
            ],
        ),
        (
            '<|tool_call>call:f{<|"|>a<|"|>:<|"|>say "no" {,}\n<|"|>,"b":"\\"}"}<tool_call|>',
            [("f", '{"a": "say \\"no\\" {,}\\n", "b": "\\"}"}')],
        ),
        ("<|tool_call>call:f{a:}<tool_call|>", [("f", '{"a": null}')]),
        ("<|tool_call>call:f{}", [("f", "{}")]),
    ],
)
def test_calls_are_found_however_the_text_arrives(text: str, parts: list[Shown]) -> None:
    assert read_every_way("gemma", text).result == (parts, "tool_calls")


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)\n```",
        "```tool_code\nprint('hello')\n```",
        "```tool_code\nimport os\n```",
        "```tool_code\nf(**{'a': 1})\n```",
        "```tool_code\nf(a=g())\n```",
        "```tool_code\nf(a=1e999)\n```",
        "```tool_code\nf(a={1, 2})\n```",
        "```tool_code\nf(a='\\ud800')\n```",
        "```tool_code\n(lambda: f)(a=1)\n```",
        "```tool_code\n1 +\n```",
        "```tool_code\n[]\n```",
        "```tool_code\n\n```",
        "```tool_code",
        "```tool_code\n[",
        "```tool_code\n[" + " " * 300 + "{}]\n```",
        "```tool_code\n[1]\n```",
        "<start_function_call>cal",
        "<start_function_call>weather{}",
        "<start_function_call>call:{}",
        "<start_function_call>call:weather(city)",
        "<start_function_call>call:" + "w" * 300 + "{}",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read_every_way("gemma", text).result == ([text], "stop")


def test_code_that_is_too_long_to_be_parsed_stays_text() -> None:
    text = f"```tool_code\nf(a={'1' * 70_000})\n```"
    assert Reading("gemma", text).result == ([text], "stop")


def test_code_that_was_cut_stays_text() -> None:
    assert Reading("gemma", "```tool_code\nf(a=1)", "length").parts == ["```tool_code\nf(a=1)"]


def test_a_call_in_the_notation_is_given_out_as_json_while_it_is_written() -> None:
    told = letter_by_letter(output_parser(0, TOOLS, "gemma", "no"), NOTED)
    assert told[0] == "weather("
    assert told[-1] == ")"
    assert "".join(told[1:-1]) == '{"city": "Oslo"}'
    assert len(told) > len("Oslo") + 4


@pytest.mark.parametrize(
    ("cut", "arguments"),
    [
        (NOTED[: NOTED.index("<escape>")], '{"city": '),
        (NOTED[: NOTED.index("slo")], '{"city": "O'),
        ("<|tool_call>call:f{n:12", '{"n": 12'),
        ("<|tool_call>call:f{na", "{"),
    ],
)
def test_a_call_that_was_cut_keeps_what_there_is(cut: str, arguments: str) -> None:
    reading = Reading("gemma", cut, "length")
    assert reading.reason == "length"
    assert [part[1] for part in reading.parts if isinstance(part, tuple)] == [arguments]


# The notation has no way to write its own quotes.
TEXTS = st.text(max_size=9).filter(lambda text: '<|"|>' not in text)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(arguments=st.dictionaries(st.text("abc", min_size=1), VALUES, max_size=3))
def test_every_value_comes_through_the_notation(arguments: dict[str, object]) -> None:
    text = f"<|tool_call>call:f{noted(arguments)}<tool_call|>"
    (part,) = Reading("gemma", text, cuts=range(len(text))).parts
    assert part[0] == "f"
    assert json.loads(part[1]) == arguments


def noted(value: object) -> str:
    """`value` as Gemma writes it."""
    match value:
        case str():
            return f'<|"|>{value}<|"|>'
        case dict():
            return (
                "{" + ",".join(f'<|"|>{key}<|"|>:{noted(one)}' for key, one in value.items()) + "}"
            )
        case list():
            return f"[{','.join(map(noted, value))}]"
        case _:
            return json.dumps(value)
