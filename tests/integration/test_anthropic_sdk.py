"""The official Anthropic client for Python, unmodified, against the whole appliance."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import (
    MessageParam,
    TextBlock,
    ThinkingConfigEnabledParam,
    ToolUseBlock,
)
from pydantic import BaseModel

from tests.integration.limited import new_key
from tests.integration.scripted.repository import script
from tests.integration.serving import Serving

CHAT, EMBED = "operayde/instruct-13b", "operayde/embed-bge"
SCRIPTED, THINKER = "scripted/scripted", "scripted/thinker"
SYSTEM = "You are a helpful assistant."
HELLO: list[MessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Oslo", "Bergen"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def says(**fields: Any) -> list[MessageParam]:
    """A prompt that makes a scripted model do `fields`."""
    return [{"role": "user", "content": script(**fields)}]


@pytest.fixture(scope="module")
def client(appliance: Serving) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=appliance.url, api_key=appliance.key, max_retries=0, timeout=60
    ) as made:
        yield made


@pytest.fixture
async def scripted(scripted_appliance: Serving) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=scripted_appliance.url, api_key=scripted_appliance.key, max_retries=0, timeout=60
    ) as made:
        yield made


GREEDY: dict[str, Any] = {"extra_body": {"temperature": 0}}


def test_a_message_says_the_same_as_a_chat(client: anthropic.Anthropic, appliance: Serving) -> None:
    message = client.messages.create(
        model=CHAT, max_tokens=100, system=SYSTEM, messages=HELLO, **GREEDY
    )
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", CHAT)
    assert message._request_id is not None
    assert message._request_id.startswith("req_")
    with openai.OpenAI(base_url=appliance.base_url, api_key=appliance.key) as chats:
        chat = chats.chat.completions.create(
            model=CHAT,
            max_tokens=100,
            messages=[
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": "What is the capital of France?"},
            ],
            temperature=0,
        )
    [block] = message.content
    assert isinstance(block, TextBlock)
    assert block.text == chat.choices[0].message.content
    assert (message.stop_reason, chat.choices[0].finish_reason) == ("end_turn", "stop")
    assert chat.usage is not None
    read = message.usage.cache_read_input_tokens or 0
    assert message.usage.input_tokens + read == chat.usage.prompt_tokens
    assert message.usage.output_tokens == chat.usage.completion_tokens


def test_the_stream_helper_gives_the_same_message(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model=CHAT, max_tokens=100, messages=HELLO, **GREEDY)
    with client.messages.stream(model=CHAT, max_tokens=100, messages=HELLO, **GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert [block.text for block in whole.content if isinstance(block, TextBlock)] == [text]
    for message in (whole, final):
        message.usage.cache_read_input_tokens = 0
        message.usage.input_tokens = 0
        message.id = ""
    assert final.to_dict(exclude_none=True) == whole.to_dict(exclude_none=True)


def test_the_limit_and_a_stop_sequence_end_a_message(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model=CHAT, max_tokens=100, messages=HELLO, **GREEDY)
    cut = client.messages.create(model=CHAT, max_tokens=2, messages=HELLO, **GREEDY)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)
    assert isinstance(whole.content[0], TextBlock)
    word = whole.content[0].text.split()[1]
    stopped = client.messages.create(
        model=CHAT, max_tokens=100, messages=HELLO, stop_sequences=["no such text", word], **GREEDY
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    assert isinstance(stopped.content[0], TextBlock)
    assert word not in stopped.content[0].text


def test_an_answer_continues_what_the_assistant_has_begun(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model=CHAT, max_tokens=100, messages=HELLO, **GREEDY)
    assert isinstance(whole.content[0], TextBlock)
    text = whole.content[0].text
    begun = text[: text.index(" ", 5)]
    messages: list[MessageParam] = [*HELLO, {"role": "assistant", "content": begun}]
    rest = client.messages.create(model=CHAT, max_tokens=100, messages=messages, **GREEDY)
    assert isinstance(rest.content[0], TextBlock)
    assert begun + rest.content[0].text == text


def test_tokens_are_counted_as_they_are_charged(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=CHAT, system=SYSTEM, messages=HELLO)
    message = client.messages.create(
        model=CHAT, max_tokens=1, system=SYSTEM, messages=HELLO, **GREEDY
    )
    read = message.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == message.usage.input_tokens + read
    with_tools = client.messages.count_tokens(
        model=CHAT,
        system=SYSTEM,
        messages=HELLO,
        tools=[WEATHER],  # type: ignore[list-item]
    )
    assert with_tools.input_tokens > counted.input_tokens


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "auto"},
        {"type": "any", "disable_parallel_tool_use": True},
        {"type": "tool", "name": "get_weather"},
    ],
)
def test_a_tool_is_used_and_its_result_told(
    client: anthropic.Anthropic, choice: dict[str, Any]
) -> None:
    request: dict[str, Any] = {
        "model": CHAT,
        "max_tokens": 200,
        "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
        "tools": [WEATHER],
        "tool_choice": choice,
        **GREEDY,
    }
    message = client.messages.create(**request)
    assert message.stop_reason == "tool_use"
    call = message.content[-1]
    assert isinstance(call, ToolUseBlock)
    assert (call.name, call.input) == ("get_weather", {"city": "Oslo"})
    with client.messages.stream(**request) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert isinstance(final.content[-1], ToolUseBlock)
    assert final.content[-1].input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"temperature": 12}'}
    request["messages"] += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    told = client.messages.create(**{**request, "tool_choice": {"type": "auto"}})
    assert told.stop_reason == "end_turn"
    assert told.content


class Answer(BaseModel):
    """A shape to answer in."""

    kind: Literal["city", "river"]
    big: bool


def test_an_answer_has_the_shape_that_is_asked_for(client: anthropic.Anthropic) -> None:
    parsed = client.messages.parse(
        model=CHAT, max_tokens=300, messages=HELLO, output_format=Answer, **GREEDY
    )
    assert parsed.stop_reason == "end_turn"
    assert isinstance(parsed.parsed_output, Answer)


def test_models_are_listed_in_pages_and_found(client: anthropic.Anthropic) -> None:
    ids = [model.id for model in client.models.list(limit=1)]
    assert {"demo/chat", "demo/embed", CHAT, EMBED} <= set(ids)
    assert len(set(ids)) == len(ids)
    model = client.models.retrieve(CHAT)
    assert (model.id, model.type, model.created_at.year) == (CHAT, "model", 2026)


async def test_thoughts_are_blocks_where_they_are_asked_for(
    scripted: anthropic.AsyncAnthropic,
) -> None:
    request: dict[str, Any] = {
        "model": THINKER,
        "max_tokens": 2000,
        "messages": says(emit="<think>\nhm, é\n</think>\n\nYes."),
    }
    thinking: ThinkingConfigEnabledParam = {"type": "enabled", "budget_tokens": 1024}
    message = await scripted.messages.create(**request, thinking=thinking)
    assert [block.type for block in message.content] == ["thinking", "text"]
    thought = message.content[0]
    assert thought.type == "thinking"
    assert thought.thinking.strip() == "hm, é"
    assert thought.signature
    async with scripted.messages.stream(**request, thinking=thinking) as stream:
        final = await stream.get_final_message()
    assert [block.to_dict() for block in final.content] == [
        block.to_dict() for block in message.content
    ]
    unasked = await scripted.messages.create(**request)
    assert [block.type for block in unasked.content] == ["text"]
    assert unasked.usage.output_tokens == message.usage.output_tokens
    assert unasked.usage.output_tokens_details is not None
    assert unasked.usage.output_tokens_details.thinking_tokens > 0
    omitting: ThinkingConfigEnabledParam = {**thinking, "display": "omitted"}
    omitted = await scripted.messages.create(**request, thinking=omitting)
    assert omitted.content[0].to_dict() == {**thought.to_dict(), "thinking": ""}
    history: list[Any] = [
        *request["messages"],
        {"role": "assistant", "content": message.content},
        *says(emit="Again."),
    ]
    again = await scripted.messages.create(**{**request, "messages": history}, thinking=thinking)
    assert [block.to_dict()["text"] for block in again.content] == ["Again."]


async def test_a_failure_in_mid_stream_is_raised_after_the_text_so_far(
    scripted: anthropic.AsyncAnthropic,
) -> None:
    seen: list[str] = []

    async def read() -> None:
        messages = says(emit="abcdef", fail_at=3, delay_ms=20)
        async with scripted.messages.stream(
            model=SCRIPTED, max_tokens=100, messages=messages
        ) as stream:
            async for text in stream.text_stream:
                seen.append(text)

    with pytest.raises(anthropic.APIStatusError) as caught:
        await read()
    assert "".join(seen) == "abc"
    assert caught.value.type == "api_error"
    assert "engine.cpp" not in str(caught.value.body)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_token_is_a_status(
    scripted: anthropic.AsyncAnthropic, stream: bool
) -> None:
    with pytest.raises(anthropic.InternalServerError) as caught:
        await scripted.messages.create(
            model=SCRIPTED, max_tokens=100, messages=says(emit="abc", fail_at=0), stream=stream
        )
    assert (caught.value.status_code, caught.value.type) == (502, "api_error")


@pytest.mark.parametrize(
    ("call", "kind", "word"),
    [
        ({"model": "no/such"}, anthropic.NotFoundError, "not_found_error"),
        ({"model": EMBED}, anthropic.NotFoundError, "not_found_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
        ({"system": "word " * 100_000}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"system": "x" * 9_000_000}, anthropic.RequestTooLargeError, "request_too_large"),
    ],
)
def test_refusals_are_exceptions_of_the_statuss_class(
    client: anthropic.Anthropic, call: dict[str, Any], kind: type[Any], word: str
) -> None:
    request: dict[str, Any] = {"model": CHAT, "max_tokens": 9, "messages": HELLO, **call}
    with pytest.raises(kind) as caught:
        client.messages.create(**request)
    assert caught.value.type == word
    assert caught.value.request_id in str(caught.value.body)
    assert caught.value.error_code


def test_a_wrong_key_is_an_authentication_error(appliance: Serving) -> None:
    with (
        anthropic.Anthropic(base_url=appliance.url, api_key="sk-none", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(model=CHAT, max_tokens=9, messages=HELLO)
    assert (caught.value.type, caught.value.error_code) == (
        "authentication_error", "invalid_api_key",
    )  # fmt: skip


def test_limits_and_scopes_are_exceptions_of_their_own(scripted_appliance: Serving) -> None:
    limited, _ = new_key(scripted_appliance, rpm_limit=1)
    narrow, _ = new_key(scripted_appliance, allowed_models=["scripted/other"])

    def ask(key: str) -> Any:
        with anthropic.Anthropic(
            base_url=scripted_appliance.url, api_key=key, max_retries=0
        ) as client:
            return client.messages.create(model=SCRIPTED, max_tokens=9, messages=says(emit="a"))

    ask(limited)
    with pytest.raises(anthropic.RateLimitError) as too_many:
        ask(limited)
    assert (too_many.value.type, too_many.value.error_code) == (
        "rate_limit_error", "rate_limit_exceeded",
    )  # fmt: skip
    assert 0 < int(too_many.value.response.headers["retry-after"]) <= 60
    with pytest.raises(anthropic.PermissionDeniedError) as denied:
        ask(narrow)
    assert denied.value.type == "permission_error"


def test_the_beta_resource_serves_the_same(client: anthropic.Anthropic) -> None:
    message = client.beta.messages.create(model=CHAT, max_tokens=9, messages=HELLO)  # type: ignore[arg-type]  # the beta has types of its own for the same values
    assert message.content


def test_the_platforms_prefix_and_a_bearer_token_serve_the_same(appliance: Serving) -> None:
    with anthropic.Anthropic(base_url=f"{appliance.url}/api", auth_token=appliance.key) as client:
        assert client.messages.create(model=CHAT, max_tokens=9, messages=HELLO).content


def test_a_plain_client_needs_no_version_header(appliance: Serving) -> None:
    reply = httpx2.post(
        f"{appliance.base_url}/messages",
        json={"model": CHAT, "max_tokens": 9, "messages": HELLO},
        headers={"x-api-key": appliance.key},
    )
    assert reply.json()["type"] == "message"


def test_a_limit_above_the_room_is_the_room(client: anthropic.Anthropic) -> None:
    # Claude Code asks for 32,000 tokens of any model.
    told = client.messages.create(
        model=CHAT, messages=HELLO, max_tokens=32_000, stop_sequences=["e", " "], timeout=600
    )
    assert told.stop_reason in ("stop_sequence", "end_turn")


def test_two_runs_of_claude_code_share_the_system_prompt_in_the_cache(
    client: anthropic.Anthropic,
) -> None:
    tools: list[Any] = [WEATHER]

    # As version 2.1.197 sends them: the billing header and the session are new in each run. With
    # `--exclude-dynamic-system-prompt-sections` the folder is told by the user's turn.
    def run(version: str, folder: str, question: str) -> dict[str, Any]:
        billing = f"x-anthropic-billing-header: cc_version=2.1.197.{version}; cc_entrypoint=cli;"
        reminder = f"<system-reminder>\nWorking directory: {folder}\n</system-reminder>"
        texts = [billing, "You are an agent of two runs.", "You help with software. " * 120]
        return {
            "system": [{"type": "text", "text": text} for text in texts],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": reminder}]},
                {"role": "user", "content": [{"type": "text", "text": question}]},
            ],
            "metadata": {"user_id": f'{{"session_id":"{version}"}}'},
        }

    def read(**request: Any) -> int:
        message = client.messages.create(model=CHAT, max_tokens=4, tools=tools, **request)
        return message.usage.cache_read_input_tokens or 0

    first = run("c88", "/home/ada/one", "What is in this folder?")
    bare: list[MessageParam] = [{"role": "user", "content": "x"}]
    whole = client.messages.count_tokens(
        model=CHAT, system=first["system"], tools=tools, messages=bare
    )
    alone = client.messages.count_tokens(model=CHAT, messages=bare)
    system_tokens = whole.input_tokens - alone.input_tokens
    assert read(**first) < 0.1 * system_tokens
    assert read(**run("c28", "/home/ada/two", "Say hello.")) >= 0.95 * system_tokens
