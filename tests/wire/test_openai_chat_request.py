"""OpenAI's chat dialect: bodies to requests."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.http.bodies import BodyReader
from orchestrator.wire.openai.chat.request import ChatRequest, decode
from tests.wire.golden import check_json

USER = {"role": "user", "content": "Hello!"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": SCHEMA,
        "strict": True,
    },
}
GRAMMAR = {"syntax": "lark", "definition": "start: /.+/s"}
CUSTOM: dict[str, Any] = {
    "type": "custom",
    "custom": {
        "name": "apply_patch",
        "description": "Changes files.",
        "format": {"type": "grammar", "grammar": GRAMMAR},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
BY_NAME = {"type": "function", "function": {"name": "now"}}
OPTIONAL = sorted(set(ChatRequest.__struct_fields__) - {"model", "messages"})
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
REQUESTS: dict[str, dict[str, Any]] = {
    "custom tools": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "custom",
                        "custom": {"name": "apply_patch", "input": '+"é"\n'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        ],
        "tools": [CUSTOM, {"type": "custom", "custom": {"name": "shell"}}, NOW],
        "tool_choice": {"type": "custom", "custom": {"name": "apply_patch"}},
    },
    "custom tools that are allowed": {
        "messages": [USER],
        "tools": [CUSTOM, NOW],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "required",
                "tools": [{"type": "custom", "custom": {"name": "apply_patch"}}],
            },
        },
    },
    "smallest": {"messages": [USER]},
    "everything": {
        "messages": [
            {"role": "developer", "content": "Be brief.", "name": "boss"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "assistant", "content": None, "refusal": "Not that."},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "max_completion_tokens": 7,
        "temperature": 0,
        "top_p": 1,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "logit_bias": {"50256": -100},
        "seed": -5,
        "n": 8,
        "stop": ["a", "b", "c", "d"],
        "tools": [TOOL, NOW],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
        },
        "modalities": ["text"],
        "logprobs": True,
        "top_logprobs": 3,
        "reasoning_effort": "xhigh",
        "route_hint": "cloud-ok",
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "no_such_parameter": [1],
    },
    "as to vLLM": {
        "messages": [USER],
        "top_k": -1,
        "max_tokens": -1,
        "max_completion_tokens": None,
        "seed": 8.0,
        "n": 2.0,
        "chat_template_kwargs": {"enable_thinking": False, "other": [1]},
    },
    "thinking switched on": {
        "messages": [USER],
        "max_tokens": 5,
        "max_completion_tokens": -1,
        "chat_template_kwargs": {"thinking": True},
    },
    "effort before a switch": {
        "messages": [USER],
        "reasoning_effort": "high",
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "results without text": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "call_1", "function": {"name": "shoot", "arguments": ""}},
                    {"id": "call_2", "function": {"name": "wait", "arguments": "{}"}},
                ],
            },
            {
                "role": "tool",
                "tool_call_id": "call_1",
                "content": [
                    {"type": "text", "text": "shot: "},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                ],
            },
            {"role": "tool", "tool_call_id": "call_2", "content": None},
        ]
    },
    "nulls mean absent": {"messages": [USER], **dict.fromkeys(OPTIONAL)},
    "one stop string": {"messages": [USER], "stop": "\n"},
    "older limit": {"messages": [USER], "max_tokens": 1},
    "tools not to be used": {"messages": [USER], "tools": [TOOL], "tool_choice": "none"},
    "the tool to be used": {
        "messages": [USER],
        "tools": [TOOL, NOW],
        "tool_choice": BY_NAME,
    },
    "some of the tools": {
        "messages": [USER],
        "tools": [TOOL, NOW],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [BY_NAME]},
        },
    },
    "functions as they were": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "now", "arguments": "{}"},
            },
            {"role": "function", "name": "now", "content": "noon"},
        ],
        "functions": [{"name": "now"}],
        "function_call": {"name": "now"},
    },
    "any JSON": {"messages": [USER], "response_format": {"type": "json_object"}},
    "a schema without its schema": {
        "messages": [USER],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x"}},
    },
    "log probabilities alone": {"messages": [USER], "logprobs": True},
    "an answer begun": {
        "messages": [USER, {"role": "assistant", "content": "Once upon"}],
        "continue_final_message": True,
    },
    "no content at all": {"messages": [{"role": "system", "content": []}, USER]},
}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no messages": ({"messages": []}, "messages", "at least one message"),
    "empty model": ({"messages": [USER], "model": ""}, "model", "may not be empty"),
    "endless model": ({"messages": [USER], "model": "m" * 257}, "model", "256 characters at most"),
    "too many biases": (
        {"logit_bias": {str(token): 1 for token in range(1025)}},
        "logit_bias",
        "1024 tokens at most",
    ),
    "unknown role": (
        {"messages": [{"role": "bot", "content": "x"}]},
        "messages[0].role",
        'system, developer, user, assistant, tool; "bot" was given',
    ),
    "no content": ({"messages": [USER, {"role": "user"}]}, "messages[1].content", "is required"),
    "nothing said": (
        {"messages": [{"role": "assistant", "content": None}]},
        "messages[0].content",
        "is required",
    ),
    "tool without its call": (
        {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "is required",
    ),
    "image": (
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        "messages[0].content[0]",
        'of type "image_url"; the model `acme/chat` reads text only',
    ),
    "part without text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "is required",
    ),
    "temperature": ({"temperature": 2.5}, "temperature", "between 0 and 2; 2.5 was given"),
    "top_p": ({"top_p": -0.1}, "top_p", "between 0 and 1; -0.1 was given"),
    "min_p": ({"min_p": 2}, "min_p", "between 0 and 1; 2 was given"),
    "top_k": ({"top_k": -2}, "top_k", "between -1 and 2147483647; -2 was given"),
    "fewer tokens than none": ({"max_tokens": -2}, "max_tokens", "at least 1; -2 was given"),
    "switch that is none": (
        {"chat_template_kwargs": {"enable_thinking": "no"}},
        "chat_template_kwargs.enable_thinking",
        '`true` or `false`; "no" was given',
    ),
    "part of a whole": ({"n": 1.5}, "n", "got `float`; 1.5 was given"),
    "repetition_penalty": ({"repetition_penalty": 0}, "repetition_penalty", "at most 10; 0 was"),
    "presence_penalty": ({"presence_penalty": 3}, "presence_penalty", "between -2 and 2"),
    "frequency_penalty": ({"frequency_penalty": -3}, "frequency_penalty", "between -2 and 2"),
    "bias of no token": ({"logit_bias": {"x": 1}}, "logit_bias", 'keyed by token ids; "x" is none'),
    "bias too strong": ({"logit_bias": {"1": 101}}, "logit_bias", "between -100 and 100"),
    "five stops": ({"stop": ["a"] * 5}, "stop", "4 strings at most; it holds 5"),
    "empty stop": ({"stop": ""}, "stop", "empty string"),
    "no choice": ({"n": 0}, "n", "between 1 and 8; 0 was given"),
    "too many choices": ({"n": 9}, "n", "between 1 and 8; 9 was given"),
    "endless": (
        {"max_tokens": 10**12},
        "max_tokens",
        "between 1 and 2147483647; 1000000000000 was given",
    ),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "at least 1; 0 was given"),
    "no tokens, newer": ({"max_completion_tokens": -2}, "max_completion_tokens", "at least 1"),
    "top log probabilities alone": ({"top_logprobs": 2}, "top_logprobs", "needs `logprobs`"),
    "too many log probabilities": (
        {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "between 0 and 20; 21 was",
    ),
    "unknown format": (
        {"response_format": {"type": "xml"}}, "response_format.type", '"xml" was given',
    ),
    "no schema": (
        {"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required",
    ),
    "bad schema name": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
        "response_format.json_schema.name",
        "1 to 64 of the characters",
    ),
    "keyword of no engine": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {
            "type": "object", "properties": {"x": {"not": {"type": "null"}}},
        }}}},
        "response_format.json_schema.schema.properties.x.not",
        "keyword `not` is not supported",
    ),
    "strict and open": (
        {"response_format": {"type": "json_schema", "json_schema": {
            "name": "a", "strict": True, "schema": {"type": "object", "properties": {}},
        }}},
        "response_format.json_schema.schema.additionalProperties",
        "required to be supplied and to be false",
    ),
    "unknown effort": (
        {"reasoning_effort": "extreme"}, "reasoning_effort", 'high, xhigh, max; "extreme" was',
    ),
    "nothing to continue": (
        {"continue_final_message": True}, "continue_final_message", "`user` was given",
    ),
    "function result of no function": (
        {"messages": [{"role": "function", "content": "x"}]}, "messages[0].name", "is required",
    ),
    "audio": ({"modalities": ["text", "audio"]}, "modalities", "`text` only"),
    "route hint": ({"route_hint": "cloud"}, "route_hint", '`cloud-ok`; "cloud" was given'),
    "required of none": ({"tool_choice": "required"}, "tool_choice", "has none that could"),
    "named and not there": (
        {"tools": [TOOL], "tool_choice": BY_NAME}, "tool_choice", '"now", which is not among',
    ),
    "allowed and not there": (
        {"tools": [TOOL], "tool_choice": {
            "type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [BY_NAME]},
        }},
        "tool_choice",
        "not among `tools`",
    ),
    "named nothing": ({"tool_choice": {"type": "function"}}, "tool_choice", "name a `function`"),
    "tool of another kind by name": (
        {"tool_choice": {"type": "mcp", "custom": {"name": "x"}}}, "tool_choice", '"mcp"',
    ),
    "unknown choice of tools": (
        {"tool_choice": "any"}, "tool_choice", '`required` or an object; "any" was given',
    ),
    "unknown mode": (
        {"tools": [NOW], "tool_choice": {
            "type": "allowed_tools", "allowed_tools": {"mode": "any", "tools": [BY_NAME]},
        }},
        "tool_choice.allowed_tools.mode",
        '"any" was given',
    ),
    "too many tools": ({"tools": [NOW] * 129}, "tools", "128 at most; it holds 129"),
    "strict tool and open": (
        {
            "tools": [{"type": "function", "function": {
                "name": "x", "strict": True,
                "parameters": {"type": "object", "properties": {"a": {}}},
            }}],
            "tool_choice": "required",
        },
        "tools[0].function.parameters.additionalProperties",
        "because the schema is strict",
    ),
    "unknown tool": ({"tools": [{"type": "web"}]}, "tools[0].type", '`custom`; "web" was given'),
    "custom tool without it": ({"tools": [{"type": "custom"}]}, "tools[0].custom", "required"),
    "custom tool with a bad name": (
        {"tools": [{"type": "custom", "custom": {"name": "a b"}}]},
        "tools[0].custom.name",
        '"a b" was given',
    ),
    "custom tool with a long grammar": (
        {
            "tools": [{"type": "custom", "custom": {"name": "a", "format": {
                "type": "grammar", "grammar": {"definition": "x" * 65_537},
            }}}],
        },
        "tools[0].custom.format.grammar.definition",
        "65536 characters at most; it has 65537",
    ),
    "choice of a custom tool without its name": (
        {"tools": [CUSTOM], "tool_choice": {"type": "custom", "function": {"name": "apply_patch"}}},
        "tool_choice",
        '"custom" was given',
    ),
    "choice of a custom tool that is not there": (
        {"tools": [NOW], "tool_choice": {"type": "custom", "custom": {"name": "apply_patch"}}},
        "tool_choice",
        "not among `tools`",
    ),
    "call of a custom tool without it": (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}]},
        "messages[1].tool_calls[0].custom",
        "required",
    ),
    "call without a function": (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "c"}]}]},
        "messages[1].tool_calls[0].function",
        "required",
    ),
    "tool without function": ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
    "bad function name": (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tools[0].function.name",
        '1 to 64 of the characters',
    ),
    "wrong type": ({"max_tokens": "5"}, "max_tokens", 'got `str`; "5" was given'),
    "number as text": ({"stream": "yes"}, "stream", 'got `str`; "yes" was given'),
    "wrong type far inside": (
        {"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "got `int`",
    ),
    "wrong type under a key": (
        {"logit_bias": {"1": "x"}}, "logit_bias[...]", "expected `float`, got `str`.",
    ),
    "missing far inside": (
        {"messages": [{"content": "x"}]}, "messages[0].role", "is required",
    ),
}  # fmt: skip


def read(body: dict[str, Any]) -> ChatRequest:
    whole = {"model": "acme/chat", "messages": [USER], **body}
    return BodyReader(ChatRequest).read(json.dumps(whole).encode())


@pytest.mark.parametrize("name", REQUESTS)
def test_a_body_becomes_the_one_request(name: str) -> None:
    body = {"model": "acme/chat", **REQUESTS[name]}
    read_body = BodyReader(ChatRequest).read(json.dumps(body).encode())
    check_json(
        f"chat/requests/{name.replace(' ', '_')}.json",
        {
            "body": body,
            "request": asdict(decode(read_body)),
            "stream": bool(read_body.stream),
            "include_usage": read_body.wants_usage,
        },
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_with_limit_and_value(name: str) -> None:
    body, param, message = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        decode(read(body))
    assert caught.value.param == param
    assert message in caught.value.message
    names = (f"`{param}`", f"`{param.rpartition('.')[0]}`")
    told = any(name in caught.value.message for name in names)
    assert told or param.startswith("messages")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The request body is empty."),
        (b"{", "is not valid JSON"),
        (b"[]", "expected `object`, got `array`"),
        (b'{"model": "\xff", "messages": []}', "is not valid JSON"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', "not valid JSON"),
        (b'{"messages": []}', "`model` is required."),
        (b'{"model": "m", "messages": [], "seed": 1e99}', "`seed` is wrong"),
        (b'{"model": "m", "messages": [], "x": ' + b"[" * 5000, "body is"),
    ],
)
def test_a_body_that_is_no_request_is_told_why(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        BodyReader(ChatRequest).read(body)
    assert message in caught.value.message
