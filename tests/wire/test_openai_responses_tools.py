"""Tools that a model does not know as they are: custom ones, and those of namespaces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.messages import ToolCallPart
from orchestrator.core.request import SamplingParams
from orchestrator.wire.openai.custom_tools import InputText
from orchestrator.wire.openai.responses.items import input_items, messages_of
from orchestrator.wire.openai.responses.request import response_object
from orchestrator.wire.openai.responses.tools import Offered, read_tools
from tests.wire.test_openai_responses_requests import CUSTOM, FUNCTION, ID, NAMESPACE, read


def texts(pieces: list[str]) -> tuple[str, str]:
    """What the pieces of the arguments give bit by bit, and at the end."""
    reader = InputText()
    told = "".join([reader.feed(piece) for piece in pieces]) + reader.finish()
    return told, reader.text


@given(text=st.text(), ascii_only=st.booleans(), data=st.data())
def test_the_input_of_a_custom_tool_comes_out_however_it_is_cut(
    text: str, ascii_only: bool, data: st.DataObject
) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(arguments)), max_size=5)))
    pieces = [arguments[a:b] for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
    assert texts(pieces) == (text, text)


@given(arguments=st.text(alphabet='{}":input\\ud8340x \n'), data=st.data())
def test_arguments_that_are_no_such_object_are_the_same_text_however_cut(
    arguments: str, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(arguments)))
    assert texts([arguments[:cut], arguments[cut:]]) == texts([arguments])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("*** Begin Patch", "*** Begin Patch"),
        ('{"patch": "x"}', '{"patch": "x"}'),
        ('{"other": 1, "input": "x"}', "x"),
        ('"just this"', "just this"),
        ('{"input": "cut he', "cut he"),
        ('{"input": 7}', '{"input": 7}'),
        ("", ""),
    ],
)
def test_what_a_model_writes_instead_is_read_as_far_as_it_goes(arguments: str, text: str) -> None:
    assert texts([arguments]) == (text, text)


@pytest.mark.parametrize("head", ['{"input":"', ' {\n "input" : "'])
def test_arguments_that_are_cut_before_their_text_have_none(head: str) -> None:
    for end in range(len(head) + 1):
        assert texts([head[:end]]) == ("", "")
        assert texts(list(head[:end])) == ("", "")


def test_names_in_a_namespace_come_back_as_they_went_in() -> None:
    plain: dict[str, Any] = {**FUNCTION, "name": "agents__spawn"}
    both: list[list[dict[str, Any]]] = [[NAMESPACE, plain, CUSTOM], [plain, NAMESPACE]]
    for tools in both:
        box = read_tools(tools)
        assert box.offered["agents__spawn"] == Offered("function", "agents__spawn")
        assert box.offered["agents__spawn_"] == Offered("function", "spawn", "agents")
        assert box.offered["agents__close"] == Offered("function", "close", "agents")
        assert {tool.name for tool in box.tools} == box.offered.keys()
        assert box.name_of("spawn", "agents") == "agents__spawn_"
    assert box.name_of("gone", "mcp__files__") == "mcp__files__gone"


def test_a_custom_call_in_the_history_is_the_call_of_a_function() -> None:
    call: dict[str, Any] = {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch"}
    (message,) = messages_of(input_items([{**call, "input": 'a "b"\n'}]), read_tools([CUSTOM]))
    (part,) = message.parts
    assert isinstance(part, ToolCallPart)
    assert json.loads(part.arguments) == {"input": 'a "b"\n'}


@pytest.mark.parametrize(
    ("asked", "temperature", "top_p"),
    [({}, 0.7, 0.8), ({"temperature": 0}, 0, 1.0), ({"top_p": 0.5}, 0.7, 0.5)],
)
def test_the_numbers_of_a_response_are_those_in_force(
    asked: dict[str, Any], temperature: float, top_p: float
) -> None:
    own = SamplingParams(temperature=0.7, top_p=0.8)
    made = response_object(read(asked), ID, 1, stored=False, defaults=own)
    assert (made["temperature"], made["top_p"]) == (temperature, top_p)
    made = response_object(read({"presence_penalty": 0.5}), ID, 1, stored=False)
    assert (made["temperature"], made["top_p"]) == (1.0, 1.0)
    assert (made["presence_penalty"], made["frequency_penalty"]) == (0.5, 0.0)
