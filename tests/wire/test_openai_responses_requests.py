"""OpenAI's responses: bodies to requests, and items as they are stored."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from openai.types.responses import ResponseItemList

from orchestrator.core.errors import (
    InvalidRequest,
    NotFound,
)
from orchestrator.core.request import GenerationRequest
from orchestrator.http.bodies import BodyReader
from orchestrator.responses.values import item_id, response_of
from orchestrator.wire.openai.responses.items import (
    input_items,
    messages_of,
    references,
    resolved,
    with_ids,
    without_oldest,
)
from orchestrator.wire.openai.responses.request import ResponsesBody, check_body, decode
from orchestrator.wire.openai.responses.tools import read_tools
from tests.wire.golden import check_json

ID = "resp_01HZX3J5K7M9N1P3Q5R7S9T1V3"
FUNCTION = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
SEARCH = {"type": "web_search", "external_web_access": True}
NAMESPACE = {
    "type": "namespace",
    "name": "agents",
    "description": "Agents that help",
    "tools": [{**FUNCTION, "name": "spawn"}, {**FUNCTION, "name": "close"}],
}
CUSTOM = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Changes files",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: WORD"},
}
NOW = {"type": "function", "name": "now", "parameters": None}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
TURN = [
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}]},
    {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}],
    },
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
    {"type": "function_call", "call_id": "call_2", "name": "now", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
    {
        "type": "function_call_output",
        "call_id": "call_2",
        "output": [{"type": "input_text", "text": "no"}, {"type": "input_text", "text": "on"}],
    },
]
OPTIONAL = sorted(set(ResponsesBody.__struct_fields__) - {"model", "input"})
REQUESTS: dict[str, dict[str, Any]] = {
    "smallest": {"input": "Hello!"},
    "everything": {
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "In English."},
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            *TURN,
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "user", "content": "Why?"},
        ],
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "tools": [FUNCTION, NOW],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "text": {"format": FORMAT, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 7,
        "max_tool_calls": 3,
        "temperature": 0,
        "top_p": 1,
        "top_logprobs": 2,
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        "truncation": "disabled",
        "metadata": {"a": "b"},
        "store": False,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "service_tier": "auto",
        "seed": 7,
        "route_hint": "cloud-ok",
        "no_such_parameter": [1],
    },
    "nulls mean absent": {"input": "Hello!", **dict.fromkeys(OPTIONAL)},
    "required tool": {"input": "x", "tools": [FUNCTION], "tool_choice": "required"},
    "no tool": {"input": "x", "tools": [FUNCTION], "tool_choice": "none"},
    "named tool": {
        "input": "x",
        "tools": [FUNCTION, NOW],
        "tool_choice": {"type": "function", "name": "now"},
    },
    "allowed tools": {
        "input": "x",
        "tools": [FUNCTION, NOW],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "now"}],
        },
    },
    "any json": {"input": "x", "text": {"format": {"type": "json_object"}}},
    "plain text": {"input": "x", "text": {"format": {"type": "text"}}},
    "log probabilities of what is said": {
        "input": "x",
        "include": ["message.output_text.logprobs"],
    },
    "tools of every kind": {
        "input": [
            {"role": "user", "content": "x"},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
            {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"},
            {"type": "reasoning", "id": "rs_1", "encrypted_content": "gAAA", "summary": []},
            {
                "type": "function_call",
                "call_id": "call_1",
                "namespace": "agents",
                "name": "spawn",
                "arguments": "{}",
            },
            {
                "type": "custom_tool_call",
                "call_id": "call_2",
                "name": "apply_patch",
                "input": '*** Begin "Patch"\n',
            },
            {
                "type": "local_shell_call",
                "call_id": "call_3",
                "action": {"type": "exec", "command": ["ls"]},
            },
            {
                "type": "function_call_output",
                "call_id": "call_1",
                "output": [
                    {"type": "input_text", "text": "seen: "},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
                ],
            },
            {"type": "custom_tool_call_output", "call_id": "call_2", "output": "done"},
            {"type": "local_shell_call_output", "call_id": "call_3", "output": "a.txt"},
        ],
        "tools": [FUNCTION, NAMESPACE, CUSTOM, SEARCH],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [
                {"type": "custom", "name": "apply_patch"},
                {"type": "function", "name": "close", "namespace": "agents"},
                {"type": "web_search"},
            ],
        },
        "store": False,
        "include": ["reasoning.encrypted_content"],
    },
    "named custom tool": {
        "input": "x",
        "tools": [CUSTOM],
        "tool_choice": {"type": "custom", "name": "apply_patch"},
    },
    "as to vLLM": {
        "input": "x",
        "top_k": -1,
        "max_output_tokens": -1,
        "top_logprobs": 2.0,
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "an output that is null": {
        "input": [
            {"type": "function_call", "call_id": "call_1", "name": "now", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": None},
        ]
    },
    "the most effort": {"input": "x", "reasoning": {"effort": "xhigh"}},
}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing put in": ({"input": []}, "input", "a text or an item"),
    "nothing at all": ({"input": None}, "input", "a text or an item"),
    "empty model": ({"model": ""}, "model", "may not be empty"),
    "conversation": ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
    "prompt template": ({"prompt": {"id": "pmpt_1"}}, "prompt", "is not supported"),
    "moderation": ({"moderation": {}}, "moderation", "is not supported"),
    "several choices": ({"n": 2}, "n", "2 was given"),
    "background that is not stored": (
        {"background": True, "store": False},
        "store",
        "needs the response to be stored",
    ),
    "too many pairs": (
        {"metadata": {str(number): "" for number in range(17)}},
        "metadata",
        "16 pairs at most; it holds 17",
    ),
    "long key": ({"metadata": {"k" * 65: ""}}, "metadata", "65 and 0"),
    "long value": ({"metadata": {"k": "v" * 513}}, "metadata", "1 and 513"),
    "no tokens": ({"max_output_tokens": 0}, "max_output_tokens", "at least 1; 0"),
    "no tool calls": ({"max_tool_calls": 0}, "max_tool_calls", "at least 1; 0"),
    "tool calls past counting": (
        {"max_tool_calls": 2**64},
        "max_tool_calls",
        "between 1 and 2147483647; 18446744073709551616 was given",
    ),
    "hot": ({"temperature": 2.1}, "temperature", "between 0 and 2; 2.1"),
    "many log-probabilities": ({"top_logprobs": 21}, "top_logprobs", "between 0 and 20; 21"),
    "unknown tool": ({"tools": [{"type": "funktion"}]}, "tools[0].type", '"funktion"'),
    "demanded tool that is not here": (
        {"tools": [FUNCTION, SEARCH], "tool_choice": {"type": "web_search"}},
        "tool_choice",
        '{"type":"web_search"} was given',
    ),
    "any tool demanded and none here": (
        {"tools": [SEARCH], "tool_choice": "required"},
        "tool_choice",
        "no such function. web_search cannot be had here",
    ),
    "only tools that are not here allowed": (
        {
            "tools": [FUNCTION, SEARCH],
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [SEARCH]},
        },
        "tool_choice",
        "web_search cannot be had here",
    ),
    "nameless namespace": (
        {"tools": [{"type": "namespace", "tools": []}]},
        "tools[0].name",
        "null was given",
    ),
    "namespace without tools": (
        {"tools": [{"type": "namespace", "name": "n"}]},
        "tools[0].tools",
        "must be a list of tools",
    ),
    "wrong tool in a namespace": (
        {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]},
        "tools[0].tools[0].name",
        "null was given",
    ),
    "namespace in a namespace": (
        {"tools": [{"type": "namespace", "name": "n", "tools": [NAMESPACE]}]},
        "tools[0].tools[0].type",
        '"namespace" was given',
    ),
    "endless grammar": (
        {"tools": [{**CUSTOM, "format": {"type": "grammar", "definition": "x" * 65537}}]},
        "tools[0].format.definition",
        "65536 characters at most; it has 65537",
    ),
    "too many tools": ({"tools": [FUNCTION] * 129}, "tools", "128 tools at most; it holds 129"),
    "nameless tool": ({"tools": [{"type": "function"}]}, "tools[0].name", "null was given"),
    "parameters that are no schema": (
        {"tools": [{**FUNCTION, "parameters": 1}]},
        "tools[0].parameters",
        "must be a JSON schema",
    ),
    "description that is no text": (
        {"tools": [{**FUNCTION, "description": 1}]},
        "tools[0].description",
        "must be a string",
    ),
    "unknown choice": ({"tool_choice": "maybe"}, "tool_choice", '"maybe" was given'),
    "required without tools": ({"tool_choice": "required"}, "tool_choice", "no such function"),
    "tool that is not offered": (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "now"}},
        "tool_choice",
        '"name":"now"}, and',
    ),
    "allowed tool that is not offered": (
        {
            "tools": [FUNCTION],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": ["x"]},
        },
        "tool_choice",
        "no such function",
    ),
    "unknown format": ({"text": {"format": {"type": "xml"}}}, "text.format.type", '"xml"'),
    "schema without a name": (
        {"text": {"format": {"type": "json_schema", "schema": {}}}},
        "text.format.name",
        "null was given",
    ),
    "no schema": (
        {"text": {"format": {"type": "json_schema", "name": "x"}}},
        "text.format.schema",
        "is required",
    ),
    "schema that no engine enforces": (
        {"text": {"format": {**FORMAT, "schema": {"type": "object", "not": {}}}}},
        "text.format.schema.not",
        "not",
    ),
    "unknown effort": ({"reasoning": {"effort": "much"}}, "reasoning.effort", '"much"'),
    "item that is none": ({"input": [1]}, "input[0]", "must be an object"),
    "unknown item": ({"input": [{"type": "no_such_call"}]}, "input[0].type", '"no_such_call"'),
    "empty item": ({"input": [{}]}, "input[0].type", "null"),
    "unknown role": (
        {"input": [{"role": "tool", "content": "x"}]},
        "input[0].role",
        'user, assistant, system, developer; "tool" was given',
    ),
    "no content": ({"input": [{"role": "user"}]}, "input[0].content", "a string or a list"),
    "image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0]",
        '"input_image"; this model reads text only',
    ),
    "part that is none": (
        {"input": [{"role": "user", "content": ["x"]}]},
        "input[0].content[0]",
        "must be an object",
    ),
    "part without text": (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        "input[0].content[0].text",
        "must be a string",
    ),
    "call without an output": (
        {
            "input": [
                {"type": "function_call", "call_id": "call_1", "name": "now", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "call_1"},
            ]
        },
        "input[1].output",
        "must be a string or a list",
    ),
    "output without a call": (
        {"input": [{"type": "function_call_output", "call_id": "call_9", "output": "x"}]},
        "input",
        'no call with the `call_id` "call_9"',
    ),
    "call without a name": (
        {"input": [{"type": "function_call", "call_id": "c", "arguments": ""}]},
        "input[0].name",
        "must be a string",
    ),
    "reasoning without text": (
        {"input": [{"type": "reasoning", "summary": [{}]}]},
        "input[0].summary",
        "parts with a `text`",
    ),
    "id that is none": (
        {"input": [{"role": "user", "content": "x", "id": ""}]},
        "input[0].id",
        "1 to 128 characters",
    ),
    "reference to nothing": ({"input": [{"type": "item_reference"}]}, "input[0].id", "1 to 128"),
}


def read(body: dict[str, Any]) -> ResponsesBody:
    document = {"model": "acme/chat", "input": "x", **body}
    return BodyReader(ResponsesBody).read(json.dumps(document).encode())


def request_of(body: dict[str, Any]) -> GenerationRequest:
    """What the routes make of `body` when nothing is stored."""
    checked = read(body)
    check_body(checked)
    tools = read_tools(checked.tools or ())
    return decode(checked, with_ids(input_items(checked.input), ID), tools)


@pytest.mark.parametrize("name", REQUESTS)
def test_bodies_become_requests(name: str) -> None:
    request = asdict(request_of(REQUESTS[name]))
    check_json(f"responses/requests/{name.replace(' ', '_')}.json", request)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_with_limit_and_value(name: str) -> None:
    body, param, message = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        request_of(body)
    assert caught.value.param == param
    assert message in caught.value.message


def test_stored_input_is_what_the_official_client_reads() -> None:
    given = REQUESTS["everything"]["input"]
    items = with_ids(input_items(given), ID)
    assert [item["id"] for item in items[:4]] == [
        "msg_01HZX3J5K7M9N1P3Q5R7S9T1V30000",
        "msg_01HZX3J5K7M9N1P3Q5R7S9T1V30001",
        "rs_1",
        "msg_1",
    ]
    page = {"object": "list", "data": items, "has_more": False}
    page |= {"first_id": items[0]["id"], "last_id": items[-1]["id"]}
    read_back = ResponseItemList.model_validate(page)
    assert [item.type for item in read_back.data] == [item["type"] for item in items]
    # What is given back by a client comes out as it went in.
    assert with_ids(input_items(items), ID) == items


def test_an_item_is_found_by_its_id_and_one_that_is_gone_is_404() -> None:
    items = input_items([{"id": "msg_7"}, {"type": "item_reference", "id": "rs_8"}])
    assert references(items) == ["msg_7", "rs_8"]
    found = {"msg_7": {"type": "message"}, "rs_8": {"type": "reasoning"}}
    assert resolved(items, found) == list(found.values())
    with pytest.raises(NotFound, match="`rs_8`"):
        resolved(items, {"msg_7": {}})
    assert response_of(item_id("msg", ID, 0xFFFF)) == ID
    assert response_of("made up by somebody") == "resp_made up by somebody"


def test_the_output_of_a_call_goes_with_the_call() -> None:
    items = with_ids(input_items([{"role": "user", "content": "x"}, *TURN]), ID)
    kept = without_oldest(items, 4)
    assert [item["type"] for item in kept] == ["function_call", "function_call_output"]
    assert {item["call_id"] for item in kept} == {"call_2"}
    assert without_oldest(items, 0) == items


def test_a_turn_of_very_many_calls_is_one_message() -> None:
    # Quadratic work would take minutes here.
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    (message,) = messages_of(input_items([call] * 200_000))
    assert len(message.parts) == 200_000


def test_few_bytes_of_a_request_do_not_stand_for_much_of_the_store() -> None:
    once = [{"type": "item_reference", "id": "msg_7"}]
    with pytest.raises(InvalidRequest, match="twice"):
        references(input_items(once * 2))
    many = [{"type": "item_reference", "id": f"msg_{number}"} for number in range(1001)]
    with pytest.raises(InvalidRequest, match="1000 stored items at most; 1001"):
        references(input_items(many))
