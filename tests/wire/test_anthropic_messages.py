"""Anthropic's messages: bodies to requests, events to bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import pytest
from anthropic.types import Message as SdkMessage
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.scripted import ScriptedGeneration
from orchestrator.core.errors import InvalidRequest, ModelUnavailable
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    PartDelta,
    PartFinished,
    PartStarted,
    Usage,
    fold,
)
from orchestrator.core.messages import ReasoningPart, TextPart, ToolCallPart
from orchestrator.core.request import ChatPrompt
from orchestrator.http.bodies import BodyReader
from orchestrator.http.errors import error_members
from orchestrator.wire.anthropic.encoder import Encoder
from orchestrator.wire.anthropic.replies import MessageErrorReply, MessageReply
from orchestrator.wire.anthropic.request import CountBody, MessagesBody
from orchestrator.wire.anthropic.routes import decode, decode_count, hides_thoughts, shows_thinking
from tests.wire.claude_code import CLAUDE_CODE
from tests.wire.generations import STARTED, TWO_CALLS, generations
from tests.wire.golden import check, check_json
from tests.wire.harness import answer

USER = {"role": "user", "content": "Hello!"}
WEATHER = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CALLS = {
    "role": "assistant",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Zürich"}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ],
}
RESULTS = {
    "role": "user",
    "content": [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"},
        {
            "type": "tool_result",
            "tool_use_id": "toolu_2",
            "content": [{"type": "text", "text": "no "}, {"type": "text", "text": "clock"}],
            "is_error": True,
        },
        {"type": "tool_result", "tool_use_id": "toolu_3"},
        {"type": "text", "text": "And now?", "cache_control": {"type": "ephemeral"}},
    ],
}


def _result(content: Any) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": "t", "content": content}
    return {"role": "user", "content": [block]}


REQUESTS: dict[str, dict[str, Any]] = {
    "smallest": {},
    "everything": {
        "system": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        "messages": [USER, CALLS, RESULTS],
        "stream": True,
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 40,
        "seed": 7,
        "stop_sequences": ["a", "b"],
        "tools": [WEATHER, {"type": "custom", "name": "now", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 4096, "display": "omitted"},
        "max_tokens": 5000,
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "cache_control": {"type": "ephemeral"},
        "no_such_parameter": [1],
    },
    "system as text": {"system": "Be brief."},
    "turns of one role": {
        "messages": [
            USER,
            {"role": "user", "content": [{"type": "text", "text": "Anyone?"}]},
            {"role": "assistant", "content": "Yes."},
            {"role": "assistant", "content": [{"type": "text", "text": "Here."}]},
            {"role": "system", "content": "Be kind."},
            USER,
        ]
    },
    "text before a result": {
        "messages": [
            USER,
            CALLS,
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Here: "},
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": []},
                ],
            },
        ]
    },
    "prefill": {"messages": [USER, {"role": "assistant", "content": "The answer is ("}]},
    "calls at the end": {"messages": [USER, CALLS]},
    "no content": {"messages": [{"role": "user", "content": []}]},
    "one tool": {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}},
    "tools not to be used": {"tools": [WEATHER], "tool_choice": {"type": "none"}},
    "tools to be chosen": {"tools": [WEATHER], "tool_choice": {"type": "auto"}},
    "schema": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "schema in its older place": {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    "effort": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
    "little thinking": {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "max_tokens": 1025,
    },
    "much thinking": {
        "thinking": {"type": "enabled", "budget_tokens": 10_000},
        "max_tokens": 20_000,
    },
    "no thinking": {"thinking": {"type": "disabled"}},
    "a turn of Claude Code": CLAUDE_CODE,
}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no messages": ({"messages": []}, "messages", "at least one message"),
    "empty model": ({"model": ""}, "model", "may not be empty"),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "at least 1; 0 was given"),
    "unknown role": (
        {"messages": [{"role": "bot", "content": "x"}]},
        "messages[0].role",
        'user, assistant, system; "bot" was given',
    ),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        "messages[0].content[0]",
        'of type "image"; the model `acme/chat` reads text only',
    ),
    "result that is an object": (
        {"messages": [_result({"type": "error"})]},
        "messages[0].content[0].content",
        "a string or a list of blocks",
    ),
    "result with a block without text": (
        {"messages": [_result([{"type": "text"}])]},
        "messages[0].content[0].content[0].text",
        "is required",
    ),
    "call by a user": (
        {"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]},
        "messages[0].content[0]",
        "text only",
    ),
    "call without an id": (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}, USER]},
        "messages[0].content[0].id",
        "is required",
    ),
    "result without its call": (
        {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
        "messages[0].content[0].tool_use_id",
        "is required",
    ),
    "text without text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "is required",
    ),
    "picture in the system prompt": ({"system": [{"type": "image"}]}, "system[0]", "text only"),
    "space after the beginning": (
        {"messages": [USER, {"role": "assistant", "content": "So "}]},
        "messages[1].content",
        "may not end with white space",
    ),
    "temperature": ({"temperature": 1.5}, "temperature", "between 0 and 1; 1.5 was given"),
    "top_p": ({"top_p": 2}, "top_p", "between 0 and 1"),
    "top_k": ({"top_k": -1}, "top_k", "-1 was given"),
    "too many stops": ({"stop_sequences": ["a"] * 33}, "stop_sequences", "it holds 33"),
    "empty stop": ({"stop_sequences": [""]}, "stop_sequences", "empty string"),
    "unknown tool": (
        {"tools": [{"type": "bsah_20250124", "name": "bash"}]},
        "tools[0].type",
        'one of Anthropic\'s tools; "bsah_20250124" was given',
    ),
    "demanded tool that is not here": (
        {
            "tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice": {"type": "tool", "name": "web_search"},
        },
        "tool_choice.name",
        '"web_search", which none of the `tools` is called',
    ),
    "any tool demanded and none here": (
        {
            "tools": [{"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice": {"type": "any"},
        },
        "tool_choice",
        "needs `tools` to choose from",
    ),
    "too many tools": ({"tools": [WEATHER] * 129}, "tools", "128 at most; it holds 129"),
    "tool without name": ({"tools": [{"input_schema": {}}]}, "tools[0].name", "is required"),
    "bad tool name": (
        {"tools": [{**WEATHER, "name": "a b"}]},
        "tools[0].name",
        "1 to 128 of the characters",
    ),
    "tool without schema": (
        {"tools": [{"name": "now"}]},
        "tools[0].input_schema",
        "is required",
    ),
    "choice of nothing": ({"tool_choice": {"type": "any"}}, "tool_choice", "needs `tools`"),
    "choice of an unknown tool": (
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}},
        "tool_choice.name",
        '"x", which none of the `tools`',
    ),
    "choice without a name": (
        {"tools": [WEATHER], "tool_choice": {"type": "tool"}},
        "tool_choice.name",
        "is required",
    ),
    "unknown choice": (
        {"tools": [WEATHER], "tool_choice": {"type": "required"}},
        "tool_choice.type",
        '"required" was given',
    ),
    "servers": ({"mcp_servers": [{"url": "x"}]}, "mcp_servers", "not supported"),
    "unknown format": ({"output_format": {"type": "x"}}, "output_format.type", "`json_schema`"),
    "format without schema": (
        {"output_config": {"format": {"type": "json_schema"}}},
        "output_config.format.schema",
        "is required",
    ),
    "effort": (
        {"output_config": {"effort": "huge"}},
        "output_config.effort",
        'low, medium, high, xhigh, max; "huge" was given',
    ),
    "unknown thinking": ({"thinking": {"type": "x"}}, "thinking.type", '"x" was given'),
    "thinking without a budget": (
        {"thinking": {"type": "enabled"}},
        "thinking.budget_tokens",
        "is required",
    ),
    "too small a budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 1000}},
        "thinking.budget_tokens",
        "between 1024 and",
    ),
    "too large a budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 2000},
        "thinking.budget_tokens",
        "below `max_tokens`, which is 2000; 2000 was given",
    ),
    "wrong type": ({"max_tokens": "5"}, "max_tokens", 'got `str`; "5" was given'),
    "keyword": (
        {"output_format": {"type": "json_schema", "schema": {"not": {}}}},
        "output_format.schema.not",
        "not",
    ),
}


def whole(body: dict[str, Any]) -> dict[str, Any]:
    return {"model": "acme/chat", "max_tokens": 9, "messages": [USER], **body}


def read(body: dict[str, Any]) -> MessagesBody:
    return BodyReader(MessagesBody).read(json.dumps(whole(body)).encode())


@pytest.mark.parametrize("name", REQUESTS)
def test_a_body_becomes_the_one_request(name: str) -> None:
    body = read(REQUESTS[name])
    check_json(
        f"anthropic/requests/{name.replace(' ', '_')}.json",
        {
            "body": whole(REQUESTS[name]),
            "request": asdict(decode(body)),
            "stream": bool(body.stream),
            "thinking": shows_thinking(body),
            "omit_thoughts": hides_thoughts(body),
        },
    )


def test_two_runs_of_claude_code_have_one_prompt() -> None:
    # Its first block differs with every start; nothing of it may be before what is the same.
    others = [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.7c1;"}]
    again = {**CLAUDE_CODE, "system": others + CLAUDE_CODE["system"][1:]}
    assert decode(read(again)) == decode(read(CLAUDE_CODE))
    assert "billing" not in repr(decode(read(CLAUDE_CODE)))
    # A system prompt of nothing else is none.
    only = decode(read({"system": others})).prompt
    assert isinstance(only, ChatPrompt)
    assert [message.role for message in only.messages] == ["user"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_with_limit_and_value(name: str) -> None:
    body, param, message = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        decode(read(body))
    assert caught.value.param == param
    assert message in caught.value.message


def test_a_count_needs_no_limit_and_has_the_same_prompt() -> None:
    for name, body in REQUESTS.items():
        given = {key: value for key, value in whole(body).items() if key != "max_tokens"}
        counted = decode_count(BodyReader(CountBody).read(json.dumps(given).encode()))
        assert counted.prompt == decode(read(body)).prompt, name


def test_a_message_needs_its_limit() -> None:
    with pytest.raises(InvalidRequest, match="`max_tokens` is required"):
        BodyReader(MessagesBody).read(json.dumps({"model": "m", "messages": [USER]}).encode())


THOUGHT: tuple[GenerationEvent, ...] = (
    STARTED,
    PartStarted(0, "reasoning"),
    PartDelta(0, "reasoning", "hm, "),
    PartDelta(0, "reasoning", "é"),
    PartFinished(0, ReasoningPart("hm, é")),
    PartStarted(0, "text"),
    PartDelta(0, "text", "Yes."),
    PartFinished(0, TextPart("Yes.")),
    ChoiceFinished(0, "stop"),
    GenerationFinished(Usage(9, 5, 4, 2)),
)
STREAMS: dict[str, tuple[GenerationEvent, ...]] = {
    "text": answer("Your", " data", '\n"stays" \\ here: é 東 😀'),
    "nothing": (STARTED, ChoiceFinished(0, "length"), GenerationFinished(Usage(9, 0, 4, 0))),
    "stop sequence": (
        STARTED,
        PartStarted(0, "text"),
        PartDelta(0, "text", "one"),
        PartFinished(0, TextPart("one")),
        ChoiceFinished(0, "stop", "two"),
        GenerationFinished(Usage(9, 2)),
    ),
    "two calls": TWO_CALLS,
    "call that was cut": (
        STARTED,
        PartStarted(0, "tool_call", "call_1", "weather"),
        PartDelta(0, "tool_call", '{"city":"Os","days":[1,'),
        PartFinished(0, ToolCallPart("call_1", "weather", '{"city":"Os","days":[1,')),
        ChoiceFinished(0, "length"),
        GenerationFinished(Usage(9, 20)),
    ),
    "refusal": (STARTED, ChoiceFinished(0, "content_filter"), GenerationFinished(Usage(9, 1))),
    "thinking": THOUGHT,
    "thinking omitted": THOUGHT,
    "thinking not asked for": THOUGHT,
}


def encoder(name: str) -> Encoder:
    return Encoder(
        thinking=name in ("thinking", "thinking omitted"), omit_thoughts=name == "thinking omitted"
    )


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_and_the_whole_are_these_very_bytes_and_say_the_same(name: str) -> None:
    written, file = encoder(name), name.replace(" ", "_")
    frames = [frame for event in STREAMS[name] for frame in written.event(event)]
    check(f"anthropic/streams/{file}.sse", b"".join(frames))
    body = encoder(name).result(await fold(ScriptedGeneration(STREAMS[name])))
    check(f"anthropic/results/{file}.json", body)
    told = msgspec.json.decode(body, type=MessageReply)
    assert msgspec.to_builtins(told) == json.loads(body)
    message = SdkMessage.model_validate_json(body)
    assert assembled(frames) == message.model_dump(exclude_none=True) | {
        "stop_sequence": message.stop_sequence
    }


@pytest.mark.parametrize("events", [0, 1, 3, 4, 7])
def test_an_error_closes_the_block_that_is_open_and_is_an_event_of_its_own(events: int) -> None:
    written = encoder("thinking")
    frames = [frame for event in THOUGHT[:events] for frame in written.event(event)]
    members = error_members(ModelUnavailable("The engine stopped: é."), "anthropic", "req_1")
    frames += written.error(members)
    kinds = [event["type"] for event in map(parsed, frames)]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")
    assert kinds[-1] == "error"
    assert msgspec.to_builtins(msgspec.convert(members, MessageErrorReply)) == members
    assert parsed(frames[-1])["error"]["type"] == "overloaded_error"
    if events == 3:
        check("anthropic/streams/error.sse", b"".join(frames))


def parsed(frame: bytes) -> dict[str, Any]:
    """The event of a frame, which is two lines and named by its own type."""
    assert frame.isascii()
    first, second, *rest = frame.decode().split("\n")
    assert rest == ["", ""]
    event: dict[str, Any] = json.loads(second.removeprefix("data: "))
    assert first == f"event: {event['type']}"
    return event


def assembled(frames: Sequence[bytes]) -> dict[str, Any]:
    """The message that a stream adds up to, put together as the reference says."""
    message: dict[str, Any] = {}
    texts: dict[int, str] = {}
    for event in map(parsed, frames):
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                delta, block = event["delta"], message["content"][event["index"]]
                kind = delta.pop("type")
                [(member, text)] = delta.items()
                if kind == "input_json_delta":
                    texts[event["index"]] = texts.get(event["index"], "") + text
                else:
                    block[member] += text
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    for index, text in texts.items():
        if message["stop_reason"] == "tool_use":
            message["content"][index]["input"] = json.loads(text)
        else:
            message["content"][index]["input"] = {"city": "Os", "days": [1]}
    assert parsed(frames[-1]) == {"type": "message_stop"}
    return message


@given(events=generations(), thinking=st.booleans(), omitted=st.booleans())
async def test_any_stream_adds_up_to_the_whole(
    events: tuple[GenerationEvent, ...], thinking: bool, omitted: bool
) -> None:
    written = Encoder(thinking=thinking, omit_thoughts=omitted)
    frames = [frame for event in events for frame in written.event(event)]
    body = written.result(await fold(ScriptedGeneration(events)))
    assert assembled(frames) == json.loads(body)


@pytest.mark.parametrize("arguments", ["[1]", "5", "nonsense", "{'a': 1}", " "])
async def test_arguments_that_are_no_object_are_an_empty_one(arguments: str) -> None:
    events = (
        STARTED,
        PartStarted(0, "tool_call", "call_1", "f"),
        PartFinished(0, ToolCallPart("call_1", "f", arguments)),
        ChoiceFinished(0, "tool_calls"),
        GenerationFinished(Usage(9, 2)),
    )
    body = json.loads(encoder("").result(await fold(ScriptedGeneration(events))))
    assert body["content"] == [{"type": "tool_use", "id": "call_1", "name": "f", "input": {}}]


def test_very_many_turns_of_one_role_are_one_turn() -> None:
    # Quadratic work would take minutes here.
    turns = [{"role": "user", "content": text} for text in ("a", "", "b")] * 50_000
    body = msgspec.convert({"model": "m", "max_tokens": 1, "messages": turns}, MessagesBody)
    prompt = decode(body).prompt
    assert isinstance(prompt, ChatPrompt)
    (message,) = prompt.messages
    assert message.text == "\n\n".join(["a", "b"] * 50_000)
