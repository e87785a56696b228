"""OpenAI's chat dialect: bodies to requests, events to bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import InvalidRequest, ModelUnavailable
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartStarted,
    Usage,
    fold,
)
from orchestrator.core.messages import ReasoningPart, TextPart, ToolCallPart
from orchestrator.wire.bodies import BodyReader
from orchestrator.wire.errors import error_members
from orchestrator.wire.openai_chat import ChatBody, Encoder, decode

from .golden import check, check_json
from .harness import answer

USER = {"role": "user", "content": "Hello!"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}
OPTIONAL = sorted(set(ChatBody.__struct_fields__) - {"model", "messages"})
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
REQUESTS: dict[str, dict[str, Any]] = {
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
        "tools": [TOOL, {"type": "function", "function": {"name": "now"}}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "logprobs": False,
        "route_hint": "cloud-ok",
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "no_such_parameter": [1],
    },
    "nulls mean absent": {"messages": [USER], **dict.fromkeys(OPTIONAL)},
    "one stop string": {"messages": [USER], "stop": "\n"},
    "older limit": {"messages": [USER], "max_tokens": 1},
    "tools not to be used": {"messages": [USER], "tools": [TOOL], "tool_choice": "none"},
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
        'of type "image_url"; this model takes text only',
    ),
    "part without text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "is required",
    ),
    "temperature": ({"temperature": 2.5}, "temperature", "between 0 and 2; 2.5 was given"),
    "top_p": ({"top_p": -0.1}, "top_p", "between 0 and 1; -0.1 was given"),
    "min_p": ({"min_p": 2}, "min_p", "between 0 and 1; 2 was given"),
    "top_k": ({"top_k": -1}, "top_k", "-1 was given"),
    "repetition_penalty": ({"repetition_penalty": 0}, "repetition_penalty", "at most 10; 0 was"),
    "presence_penalty": ({"presence_penalty": 3}, "presence_penalty", "between -2 and 2"),
    "frequency_penalty": ({"frequency_penalty": -3}, "frequency_penalty", "between -2 and 2"),
    "bias of no token": ({"logit_bias": {"x": 1}}, "logit_bias", 'keyed by token ids; "x" is none'),
    "bias too strong": ({"logit_bias": {"1": 101}}, "logit_bias", "between -100 and 100"),
    "five stops": ({"stop": ["a"] * 5}, "stop", "4 strings at most; it holds 5"),
    "empty stop": ({"stop": ""}, "stop", "empty string"),
    "no choice": ({"n": 0}, "n", "between 1 and 8; 0 was given"),
    "too many choices": ({"n": 9}, "n", "between 1 and 8; 9 was given"),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "at least 1; 0 was given"),
    "no tokens, newer": ({"max_completion_tokens": -1}, "max_completion_tokens", "at least 1"),
    "log probabilities": ({"logprobs": True}, "logprobs", "not supported yet"),
    "top log probabilities": ({"top_logprobs": 2}, "top_logprobs", "not supported yet"),
    "JSON": ({"response_format": {"type": "json_object"}}, "response_format", "not supported yet"),
    "audio": ({"modalities": ["text", "audio"]}, "modalities", "`text` only"),
    "route hint": ({"route_hint": "cloud"}, "route_hint", '`cloud-ok`; "cloud" was given'),
    "required tool": ({"tool_choice": "required"}, "tool_choice", "not supported yet"),
    "named tool": ({"tool_choice": {"type": "function"}}, "tool_choice", "not supported yet"),
    "unknown choice of tools": ({"tool_choice": "any"}, "tool_choice", "`none` or `auto`"),
    "unknown tool": ({"tools": [{"type": "web"}]}, "tools[0].type", '`function`; "web" was given'),
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


def read(body: dict[str, Any]) -> ChatBody:
    whole = {"model": "acme/chat", "messages": [USER], **body}
    return BodyReader(ChatBody).read(json.dumps(whole).encode())


@pytest.mark.parametrize("name", REQUESTS)
def test_a_body_becomes_the_one_request(name: str) -> None:
    body = {"model": "acme/chat", **REQUESTS[name]}
    read_body = BodyReader(ChatBody).read(json.dumps(body).encode())
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
    assert f"`{param}`" in caught.value.message or param.startswith("messages")


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
        BodyReader(ChatBody).read(body)
    assert message in caught.value.message


STARTED = GenerationStarted("chatcmpl-1", 'acme/ch"at\né', 1_700_000_000, 9)
CALL = ToolCallPart("call_1", "weather", '{"city":"Zürich"}')
STREAMS: dict[str, tuple[GenerationEvent, ...]] = {
    "text": answer("Your", " data", "\n\"stays\" \\ here: é 東 😀"),
    "nothing": (STARTED, ChoiceFinished(0, "length"), GenerationFinished(Usage(9, 0, 4, 0))),
    "two calls": (
        STARTED,
        PartStarted(0, "text"),
        PartDelta(0, "text", "Let me see."),
        PartFinished(0, TextPart("Let me see.")),
        PartStarted(0, "tool_call", CALL.id, CALL.name),
        PartDelta(0, "tool_call", CALL.arguments[:5]),
        PartDelta(0, "tool_call", CALL.arguments[5:]),
        PartFinished(0, CALL),
        PartStarted(0, "tool_call", "call_2", "now"),
        PartFinished(0, ToolCallPart("call_2", "now", "")),
        ChoiceFinished(0, "tool_calls"),
        GenerationFinished(Usage(9, 20)),
    ),
    "reasoning": (
        STARTED,
        PartStarted(0, "reasoning"),
        PartDelta(0, "reasoning", "hm"),
        PartFinished(0, ReasoningPart("hm")),
        PartStarted(0, "text"),
        PartDelta(0, "text", "Yes."),
        PartFinished(0, TextPart("Yes.")),
        ChoiceFinished(0, "stop"),
        GenerationFinished(Usage(9, 3, 0, 1)),
    ),
    "two choices": (
        STARTED,
        PartStarted(1, "text"),
        PartDelta(1, "text", "B"),
        PartStarted(0, "text"),
        PartDelta(0, "text", "A"),
        PartFinished(1, TextPart("B")),
        ChoiceFinished(1, "stop"),
        PartFinished(0, TextPart("A")),
        ChoiceFinished(0, "content_filter"),
        GenerationFinished(Usage(9, 2)),
    ),
}  # fmt: skip


def encoder(name: str, *, include_usage: bool = False) -> Encoder:
    choices = 2 if name == "two choices" else 1
    return Encoder(choices=choices, include_usage=include_usage, fingerprint="fp_test")


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_events_become_these_very_bytes(name: str, include_usage: bool) -> None:
    written = encoder(name, include_usage=include_usage)
    frames = [frame for event in STREAMS[name] for frame in written.event(event)]
    file = name.replace(" ", "_") + ("_with_usage" if include_usage else "")
    check(f"chat/streams/{file}.sse", b"".join(frames))
    check_frames(frames, include_usage=include_usage)


@pytest.mark.parametrize("name", STREAMS)
async def test_the_whole_answer_becomes_these_very_bytes(name: str) -> None:
    completion = await fold(stream(STREAMS[name]))
    check(f"chat/results/{name.replace(' ', '_')}.json", encoder(name).result(completion))


@pytest.mark.parametrize("profile", ["appliance", "spec", "platform"])
def test_an_error_after_the_first_byte_ends_the_stream_in_the_callers_words(profile: Any) -> None:
    written = encoder("text", include_usage=True)
    frames = [frame for event in STREAMS["text"][:4] for frame in written.event(event)]
    members = error_members(ModelUnavailable("The engine stopped: é."), profile, "req_1")
    frames += written.error(members)
    check(f"chat/streams/error_{profile}.sse", b"".join(frames))
    check_frames(frames, include_usage=True)


def test_an_error_before_any_event_is_a_chunk_all_the_same() -> None:
    frames = encoder("text").error(error_members(ModelUnavailable("x"), "appliance", "req_1"))
    chunk = json.loads(frames[0][6:])
    assert chunk["choices"][0]["finish_reason"] == "error"
    assert chunk["error"]["code"] == "model_unavailable"


async def stream(events: Sequence[GenerationEvent]) -> AsyncIterator[GenerationEvent]:
    for event in events:
        yield event


def check_frames(frames: Sequence[bytes], *, include_usage: bool) -> None:
    """What the plainest clients rely on: one line an event, LF, ASCII, choices, no null content."""
    assert frames[-1] == b"data: [DONE]\n\n"
    for frame in frames[:-1]:
        assert frame.startswith(b"data: {")
        assert frame.endswith(b"}\n\n")
        assert frame.count(b"\n") == 2
        assert frame.isascii()
        assert b"\r" not in frame
        chunk = json.loads(frame[6:])
        assert ("usage" in chunk) == include_usage
        if not chunk["choices"]:
            assert include_usage
            assert frame is frames[-2]
            continue
        delta = chunk["choices"][0].get("delta", {})
        assert delta.get("content", "") is not None


@given(texts=st.lists(st.text(min_size=1, max_size=8), max_size=6))
def test_any_text_survives_the_stream(texts: list[str]) -> None:
    written = encoder("text")
    frames = [frame for event in answer(*texts) for frame in written.event(event)]
    check_frames(frames, include_usage=False)
    chunks = [json.loads(frame[6:]) for frame in frames[:-1]]
    seen = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert seen == "".join(texts)
