"""What engines are held to, and that they can be."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest

from orchestrator.backends.triton.guides import guide_for, may_call_instead
from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Message, TextPart, Tool
from orchestrator.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonFormat,
    JsonSchemaFormat,
    TextPrompt,
    ToolChoice,
)
from orchestrator.core.schema_size import MAX_CHARACTERS
from orchestrator.triton.contract import Guide

KNOWN = ("json", "json_schema")
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TREE = {
    "type": "object",
    "properties": {"left": {"$ref": "#"}, "leaf": {"$ref": "#/$defs/leaf"}},
    "additionalProperties": False,
    "$defs": {"leaf": {"type": "integer"}},
}
TOOLS = (Tool("weather", "", CITY), Tool("grow", "", TREE), Tool("now", "", {}))


def request(tools: tuple[Tool, ...] = (), **more: Any) -> GenerationRequest:
    prompt = ChatPrompt((Message("user", (TextPart("Hi"),)),), tools)
    return GenerationRequest("acme/chat", prompt, **more)


def accepted(guide: Guide, text: str) -> bool:
    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(guide.text)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    assert matcher.get_error() == ""
    tokens = tokenizer.tokenize_str(text)
    return bool(matcher.consume_tokens(tokens) and matcher.is_accepting())


@pytest.mark.parametrize(
    "free",
    [
        request(),
        request(TOOLS),
        request(TOOLS, tool_choice=ToolChoice("none")),
        request(tool_choice=ToolChoice("required")),
        GenerationRequest("acme/chat", TextPrompt("x"), tool_choice=ToolChoice("required")),
    ],
)
def test_most_requests_are_free(free: GenerationRequest) -> None:
    assert guide_for(free, ()) is None


def test_a_format_is_the_guide() -> None:
    assert guide_for(request(response_format=JsonFormat()), KNOWN) == Guide("json")
    wanted = JsonSchemaFormat({"type": "integer", "title": "Ä"}, "n", strict=True)
    guide = guide_for(request(TOOLS, response_format=wanted, tool_choice=ToolChoice("none")), KNOWN)
    assert guide == Guide("json_schema", '{"type": "integer", "title": "Ä"}', "response_format")


def test_a_format_gives_way_to_a_call_that_may_come() -> None:
    assert may_call_instead(request(TOOLS, response_format=JsonFormat()))
    assert not may_call_instead(request(response_format=JsonFormat()))
    for mode in (ToolChoice("none"), ToolChoice("required")):
        assert not may_call_instead(request(TOOLS, tool_choice=mode))


def test_a_tool_nested_too_deeply_is_a_bad_request() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"const": schema}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        guide_for(request((Tool("f", "", schema),), tool_choice=ToolChoice("required")), KNOWN)


@pytest.mark.parametrize("mode", [ToolChoice("required"), ToolChoice("named", "f1")])
def test_tools_that_are_too_large_to_force_are_a_bad_request(mode: ToolChoice) -> None:
    named = mode.mode == "named"
    share = MAX_CHARACTERS if named else MAX_CHARACTERS // 2
    tools = tuple(Tool(f"f{index}", "", {"const": "x" * share}) for index in range(2))
    with pytest.raises(InvalidRequest, match=f"`tools` is too large.*{MAX_CHARACTERS}") as caught:
        guide_for(request(tools, tool_choice=mode), KNOWN)
    assert caught.value.param == "tools"
    assert guide_for(request(tools), KNOWN) is None


def test_a_named_tool_leaves_the_arguments_to_write() -> None:
    guide = guide_for(request(TOOLS, tool_choice=ToolChoice("named", "weather")), KNOWN)
    assert guide is not None
    assert guide.param == "tool_choice"
    assert accepted(guide, '{"city":"Oslo"}')
    assert not accepted(guide, "{}")
    assert not accepted(guide, '{"city":"Oslo","invented":1}')
    anything = guide_for(request(TOOLS, tool_choice=ToolChoice("named", "now")), KNOWN)
    assert anything is not None
    assert accepted(anything, "{}")
    assert not accepted(anything, '{"x":1}')
    assert not accepted(anything, "5")
    free = Tool("free", "", {"type": "object", "additionalProperties": True})
    open_ended = guide_for(request((free,), tool_choice=ToolChoice("named", "free")), KNOWN)
    assert open_ended is not None
    assert accepted(open_ended, '{"x":1}')


def test_required_is_a_list_of_calls_each_with_its_own_arguments() -> None:
    guide = guide_for(request(TOOLS, tool_choice=ToolChoice("required")), KNOWN)
    assert guide is not None
    weather = '{"name":"weather","parameters":{"city":"Oslo"}}'
    grow = '{"name":"grow","parameters":{"left":{"leaf":1},"leaf":2}}'
    assert accepted(guide, f"[{weather}]")
    assert accepted(guide, f"[{weather},{grow}]")
    assert not accepted(guide, "[]")
    assert not accepted(guide, '[{"name":"weather","parameters":{"leaf":1}}]')
    assert not accepted(guide, '[{"name":"grow","parameters":{"leaf":"x"}}]')
    assert not accepted(guide, '[{"name":"other","parameters":{}}]')


def test_without_parallel_calls_there_is_one() -> None:
    one = request(TOOLS, tool_choice=ToolChoice("required"), parallel_tool_calls=False)
    guide = guide_for(one, KNOWN)
    assert guide is not None
    now = '{"name":"now","parameters":{}}'
    assert accepted(guide, f"[{now}]")
    assert not accepted(guide, f"[{now},{now}]")


def test_a_tool_with_a_schema_of_its_own_kind_can_be_forced_all_the_same() -> None:
    odd = Tool("odd", "", {"type": "object", "properties": {"a": {"not": {}, "type": "null"}}})
    guide = guide_for(request((odd,), tool_choice=ToolChoice("required")), KNOWN)
    assert guide is not None
    assert "not" not in json.dumps(json.loads(guide.text)["$defs"])
    assert accepted(guide, '[{"name":"odd","parameters":{"a":null}}]')


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        (request(response_format=JsonFormat()), "response_format", "engine of `acme/chat` does"),
        (request(TOOLS, tool_choice=ToolChoice("required")), "tool_choice", "guided decoding"),
        (
            request(TOOLS, tool_choice=ToolChoice("named", "other")),
            "tool_choice",
            "names `other`, which is not among `tools`",
        ),
    ],
)
def test_what_cannot_be_enforced_is_refused(
    asked: GenerationRequest, param: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        guide_for(asked, ())
    assert caught.value.param == param
