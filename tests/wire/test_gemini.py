"""Google's Gemini: bodies to requests."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.request import ChatPrompt
from orchestrator.wire.gemini.request import CountBody, GeminiReader, GenerateBody
from orchestrator.wire.gemini.routes import decode, decode_count
from tests.wire.golden import check_json

HELLO = {"parts": [{"text": "Hello!"}]}
WEATHER = {
    "name": "weather",
    "description": "The weather in a city",
    "parameters": {"type": "OBJECT", "properties": {"city_name": {"type": "STRING"}}},
}
NOW = {"name": "clock.now", "parametersJsonSchema": {"type": "object", "my_word": 1}}
CALLS = {
    "role": "model",
    "parts": [
        {"text": "hm", "thought": True, "thoughtSignature": "AA=="},
        {"text": "Let me see."},
        {"functionCall": {"name": "weather", "args": {"city_name": "Zürich"}}},
        {"functionCall": {"name": "weather", "args": {"city_name": "Oslo"}}},
        {"functionCall": {"id": "mine", "name": "clock.now"}},
    ],
}
RESPONSES = {
    "role": "user",
    "parts": [
        {"functionResponse": {"id": "mine", "name": "clock.now", "response": {"at_utc": 1}}},
        {"functionResponse": {"name": "weather", "response": {"result": "rain"}}},
        {"functionResponse": {"name": "weather"}},
        {"functionResponse": {"name": "nobody", "response": {}}},
        {"text": "And now?"},
    ],
}
REQUESTS: dict[str, dict[str, Any]] = {
    "one object where an array may stand": {
        "system_instruction": {"parts": {"text": "You are a cat."}},
        "contents": {"role": "user", "parts": {"text": "Hello there"}},
        "tools": {"functionDeclarations": {**WEATHER, "parameters": {"type": "object"}}},
        "toolConfig": {"functionCallingConfig": {"mode": "any", "allowedFunctionNames": "weather"}},
        "generationConfig": {
            "stopSequences": "x",
            "responseModalities": "text",
            "thinkingConfig": {"thinkingLevel": "low"},
        },
    },
    "tools at Google beside functions": {
        "tools": [{"googleSearch": {}}, {"functionDeclarations": [WEATHER]}],
    },
    "a picture beside a response": {
        "contents": [
            HELLO,
            {"role": "model", "parts": [{"functionCall": {"name": "read_file", "args": {}}}]},
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "read_file", "response": {"output": "read"}}},
                    {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
                ],
            },
        ]
    },
    "smallest": {},
    "everything": {
        "systemInstruction": {"parts": [{"text": "Be "}, {"text": "brief."}]},
        "contents": [HELLO, CALLS, RESPONSES],
        "generationConfig": {
            "temperature": 2,
            "topP": 0.5,
            "topK": 40.0,
            "maxOutputTokens": 7,
            "stopSequences": ["a", "b", "c", "d", "e"],
            "candidateCount": 8,
            "seed": -5,
            "presencePenalty": 1,
            "frequencyPenalty": -1,
            "responseLogprobs": True,
            "logprobs": 3,
            "responseModalities": ["TEXT"],
            "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 4096},
        },
        "tools": [{"functionDeclarations": [WEATHER]}, {"functionDeclarations": [NOW]}],
        "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "labels": {"a": "b"},
        "noSuchMember": [1],
    },
    "snake case": {
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            HELLO,
            {"role": "model", "parts": [{"function_call": {"name": "f", "args": {"a_b": 1}}}]},
            {"parts": [{"function_response": {"name": "f", "response": {"c_d": 2}}}]},
        ],
        "generation_config": {
            "max_output_tokens": 7,
            "response_mime_type": "application/json",
            "response_schema": {
                "type": "OBJECT",
                "properties": {"two_words": {"type": "ARRAY", "max_items": "3"}},
            },
            "thinking_config": {"include_thoughts": True, "thinking_level": "MINIMAL"},
        },
    },
    "roles": {
        "contents": [
            {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
            {"role": "model", "parts": [{"text": "c"}]},
            {"role": "function", "parts": [{"functionResponse": {"name": "f"}}]},
            {"role": "", "parts": []},
        ]
    },
    "text before a response": {
        "contents": [{"parts": [{"text": "x"}, {"functionResponse": {"name": "f"}}]}]
    },
    "any function": {
        "tools": [{"functionDeclarations": [WEATHER, NOW]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    },
    "one function": {
        "tools": [{"functionDeclarations": [WEATHER, NOW]}],
        "toolConfig": {
            "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}
        },
    },
    "some functions": {
        "tools": [{"functionDeclarations": [WEATHER, NOW, {"name": "f"}]}],
        "toolConfig": {
            "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather", "f"]}
        },
    },
    "functions not to be called": {
        "tools": [{"functionDeclarations": [WEATHER]}],
        "toolConfig": {"functionCallingConfig": {"mode": "NONE"}},
    },
    "functions held to their schemas": {
        "tools": [{"functionDeclarations": [WEATHER]}],
        "toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}},
    },
    "tool config without tools": {"toolConfig": {}},
    "JSON": {"generationConfig": {"responseMimeType": "application/json"}},
    "JSON schema": {
        "generationConfig": {
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object", "properties": {"a_b": {"type": "string"}}},
        }
    },
    "one of some words": {
        "generationConfig": {
            "responseMimeType": "text/x.enum",
            "responseSchema": {"type": "STRING", "enum": ["a", "b"]},
        }
    },
    "log probabilities of the drawn tokens": {"generationConfig": {"responseLogprobs": True}},
    "no thinking": {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}},
    "thinking as it likes": {"generationConfig": {"thinkingConfig": {"thinkingBudget": -1}}},
    "much thinking": {"generationConfig": {"thinkingConfig": {"thinkingLevel": "XHIGH"}}},
}
CONFIG_REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "temperature": ({"temperature": 2.5}, "temperature", "between 0 and 2; 2.5 was given"),
    "topP": ({"topP": -0.1}, "topP", "between 0 and 1; -0.1 was given"),
    "topK": ({"topK": -1}, "topK", "-1 was given"),
    "half a topK": ({"topK": 1.5}, "topK", "whole number; 1.5 was given"),
    "presencePenalty": ({"presencePenalty": 3}, "presencePenalty", "between -2 and 2"),
    "frequencyPenalty": ({"frequencyPenalty": -3}, "frequencyPenalty", "between -2 and 2"),
    "no tokens": ({"maxOutputTokens": 0}, "maxOutputTokens", "at least 1; 0 was given"),
    "six stops": ({"stopSequences": ["a"] * 6}, "stopSequences", "5 strings at most; it holds 6"),
    "empty stop": ({"stopSequences": [""]}, "stopSequences", "empty string"),
    "too many candidates": ({"candidateCount": 9}, "candidateCount", "between 1 and 8; 9 was"),
    "audio": ({"responseModalities": ["AUDIO"]}, "responseModalities", "`TEXT` only"),
    "unknown type": ({"responseMimeType": "text/html"}, "responseMimeType", '"text/html" was'),
    "no words": ({"responseMimeType": "text/x.enum"}, "responseMimeType", "has no `enum`"),
    "schema of a text": ({"responseSchema": {"type": "OBJECT"}}, "responseMimeType", "goes with"),
    "logprobs alone": ({"logprobs": 2}, "logprobs", "goes with `responseLogprobs`"),
    "too many logprobs": (
        {"responseLogprobs": True, "logprobs": 21},
        "logprobs",
        "between 0 and 20; 21 was given",
    ),
    "level": (
        {"thinkingConfig": {"thinkingLevel": "huge"}},
        "thinkingConfig.thinkingLevel",
        '"huge" was given',
    ),
    "budget": (
        {"thinkingConfig": {"thinkingBudget": -2}},
        "thinkingConfig.thinkingBudget",
        "at least -1; -2 was given",
    ),
    "keyword": (
        {"responseMimeType": "application/json", "responseJsonSchema": {"not": {}}},
        "responseJsonSchema.not",
        "not",
    ),
}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no contents": ({"contents": []}, "contents", "at least one content"),
    "unknown role": (
        {"contents": [{"role": "bot", "parts": []}]},
        "contents[0].role",
        '`user` or `model`; "bot" was given',
    ),
    "image": (
        {"contents": [{"parts": [{"text": "x"}, {"inlineData": {"data": "", "mimeType": "i"}}]}]},
        "contents[0].parts[1]",
        'of type "inlineData"; the model `acme/chat` reads text only',
    ),
    "file": (
        {"contents": [{"role": "model", "parts": [{"file_data": {"file_uri": "x"}}]}]},
        "contents[0].parts[0]",
        'of type "fileData"',
    ),
    "empty part": ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0]", "is empty"),
    "file in the instruction": (
        {"systemInstruction": {"parts": [{"fileData": {}}]}},
        "systemInstruction.parts[0]",
        "text only",
    ),
    "cached content": ({"cachedContent": "cachedContents/x"}, "cachedContent", "not supported"),
    "any function demanded and none here": (
        {
            "tools": [{"googleSearch": {}}],
            "toolConfig": {"functionCallingConfig": {"mode": "any"}},
        },
        "toolConfig.functionCallingConfig.mode",
        "declares no function",
    ),
    "too many functions": (
        {"tools": [{"functionDeclarations": [WEATHER] * 129}]},
        "tools",
        "128 functions at most; it declares 129",
    ),
    "bad function name": (
        {"tools": [{"functionDeclarations": [{"name": "a b"}]}]},
        "tools[0].functionDeclarations[0].name",
        "1 to 128 of the characters",
    ),
    "bad parameters": (
        {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "TUPLE"}}]}]},
        "tools[0].functionDeclarations[0].parameters.type",
        '"TUPLE" was given',
    ),
    "unknown mode": (
        {"toolConfig": {"functionCallingConfig": {"mode": "SOME"}}},
        "toolConfig.functionCallingConfig.mode",
        'AUTO, ANY, NONE, VALIDATED; "SOME" was given',
    ),
    "any of no function": (
        {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
        "toolConfig.functionCallingConfig.mode",
        "declares no function",
    ),
    "unknown function": (
        {
            "tools": [{"functionDeclarations": [WEATHER]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["x"]}},
        },
        "toolConfig.functionCallingConfig.allowedFunctionNames",
        '"x", which is not declared',
    ),
    "names without a mode for them": (
        {"toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["x"]}}},
        "toolConfig.functionCallingConfig.allowedFunctionNames",
        "the mode is `AUTO`",
    ),
    "wrong type": (
        {"generationConfig": {"maxOutputTokens": "5"}},
        "generationConfig.maxOutputTokens",
        'got `str`; "5" was given',
    ),
    "wrong type in snake case": (
        {"generation_config": {"max_output_tokens": "5"}},
        "generationConfig.maxOutputTokens",
        'got `str`; "5" was given',
    ),
    **{
        name: ({"generationConfig": config}, f"generationConfig.{param}", message)
        for name, (config, param, message) in CONFIG_REFUSED.items()
    },
}


def read(body: dict[str, Any]) -> GenerateBody:
    return GeminiReader(GenerateBody).read(json.dumps({"contents": [HELLO], **body}).encode())


@pytest.mark.parametrize("name", REQUESTS)
def test_a_body_becomes_the_one_request(name: str) -> None:
    check_json(
        f"gemini/requests/{name.replace(' ', '_')}.json",
        {
            "body": {"contents": [HELLO], **REQUESTS[name]},
            "request": asdict(decode("acme/chat", read(REQUESTS[name]))),
        },
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_with_limit_and_value(name: str) -> None:
    body, param, message = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        decode("acme/chat", read(body))
    assert caught.value.param == param
    assert message in caught.value.message


def test_a_model_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="may not be empty"):
        decode("", read({}))


@pytest.mark.parametrize(
    "body", [b"", b'{"a_b": ', b'{"a_b": 1}', b"\xff_", b'{"a_b": ' + b"[" * 5000 + b"]" * 5000]
)
def test_a_body_that_is_no_request_is_refused_in_either_case(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        GeminiReader(GenerateBody).read(body)


def test_a_count_is_of_contents_or_of_a_whole_request() -> None:
    reader = GeminiReader(CountBody)
    request = {**REQUESTS["everything"], "model": "models/acme/chat"}
    whole = reader.read(json.dumps({"generateContentRequest": request}).encode())
    assert decode_count("m", whole).prompt == decode("m", read(REQUESTS["everything"])).prompt
    plain = reader.read(json.dumps({"contents": [HELLO]}).encode())
    assert decode_count("m", plain).prompt == decode("m", read({})).prompt
    with pytest.raises(InvalidRequest, match="`contents` is required"):
        decode_count("m", reader.read(b"{}"))


def test_very_many_calls_find_their_answers() -> None:
    # Quadratic work would take minutes here.
    count = 100_000
    calls = [{"functionCall": {"name": "f", "id": f"i{number}"}} for number in range(count)]
    unnamed = [{"functionCall": {"name": "f"}}]
    answers = [{"functionResponse": {"name": "f", "id": f"i{n}"}} for n in reversed(range(count))]
    body = {
        "contents": [
            {"role": "model", "parts": [*calls, *unnamed]},
            {"role": "user", "parts": [*answers, {"functionResponse": {"name": "f"}}]},
        ]
    }
    prompt = decode("m", read(body)).prompt
    assert isinstance(prompt, ChatPrompt)
    answered = [message.tool_call_id for message in prompt.messages[1:]]
    assert answered == [f"i{n}" for n in reversed(range(count))] + [f"call_{count + 1}"]


def test_values_that_cannot_be_told_on_are_refused() -> None:
    value = "[" * 400 + "]" * 400
    reader = GeminiReader(GenerateBody)
    answered = {"functionResponse": {"name": "f", "response": {"a": 0}}}
    called = {"functionCall": {"name": "f", "args": {"a": 0}}}
    for role, part in (("user", answered), ("model", called)):
        body = json.dumps({"contents": [{"role": role, "parts": [part]}]}).replace("0", value)
        with pytest.raises(InvalidRequest, match="nested more than 254 deep"):
            decode("m", reader.read(body.encode()))
