"""The official OpenAI client for Python, unmodified, against the whole appliance."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import (
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageParam,
)

from tests.integration.scripted.repository import script
from tests.integration.serving import Serving

CHAT, EMBED = "operayde/instruct-13b", "operayde/embed-bge"
SCRIPTED = "scripted/scripted"
HELLO: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]


def says(**fields: Any) -> list[ChatCompletionMessageParam]:
    """A prompt that makes the scripted model do `fields`."""
    return [{"role": "user", "content": script(**fields)}]


@pytest.fixture
def client(appliance: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=appliance.base_url, api_key=appliance.key, max_retries=0) as made:
        yield made


@pytest.fixture
async def scripted(scripted_appliance: Serving) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=scripted_appliance.base_url, api_key=scripted_appliance.key, max_retries=0
    ) as made:
        yield made


async def streamed(
    client: openai.AsyncOpenAI, messages: list[ChatCompletionMessageParam], **more: Any
) -> tuple[str, str | None]:
    """The text and the finish reason of a streamed answer."""
    text, reason = "", None
    stream = await client.chat.completions.create(
        model=SCRIPTED, messages=messages, stream=True, **more
    )
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


def test_a_chat_is_answered_in_full(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=HELLO, temperature=0)
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == CHAT
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens > 1
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_a_stream_says_the_same_as_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CHAT, messages=HELLO, temperature=0)
    stream = client.chat.completions.create(
        model=CHAT,
        messages=HELLO,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_the_same_seed_gives_the_same_answer_and_n_gives_several(client: openai.OpenAI) -> None:
    def contents(**more: Any) -> list[str | None]:
        answer = client.chat.completions.create(
            model=CHAT, messages=HELLO, temperature=2, max_tokens=16, **more
        )
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.message.content for choice in answer.choices]

    three = contents(seed=7, n=3)
    assert len(set(three)) > 1
    assert contents(seed=7, n=3) == three
    assert contents(seed=8) == three[1:2]


def test_the_token_limit_and_the_stop_string_end_an_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CHAT, messages=HELLO, temperature=0)
    text = whole.choices[0].message.content or ""
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        cut = client.chat.completions.create(
            model=CHAT,
            messages=HELLO,
            temperature=0,
            **limit,  # type: ignore[call-overload]
        )
        assert cut.choices[0].finish_reason == "length"
        assert cut.usage.completion_tokens == 2
        assert text.startswith(cut.choices[0].message.content)
    word = text.split()[1]
    stopped = client.chat.completions.create(model=CHAT, messages=HELLO, temperature=0, stop=word)
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == text[: text.index(word)]


def test_a_tool_is_called_and_its_result_told(client: openai.OpenAI) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }
    function = {"name": "get_weather", "description": "The weather", "parameters": parameters}
    request: dict[str, Any] = {
        "model": CHAT,
        "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
        "tools": [{"type": "function", "function": function}],
        "temperature": 0,
    }
    choice = client.chat.completions.create(**request).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert call.id.startswith("call_")
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather", {"city": "Oslo"},
    )  # fmt: skip
    with client.chat.completions.stream(**request) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls is not None
    assert final.message.tool_calls[0].function.arguments == call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 12}'}
    request["messages"] += [choice.message.to_dict(), result]
    told = client.chat.completions.create(**request).choices[0]
    assert told.finish_reason == "stop"
    assert told.message.content


def test_the_openai_stream_helper_works(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=CHAT, messages=HELLO, temperature=0) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content


def test_embeddings_are_the_same_as_numbers_and_packed(client: openai.OpenAI) -> None:
    texts = ["Operayde keeps your data on-premise.", "Virtual keys control API access."]
    by_default = client.embeddings.create(model=EMBED, input=texts)
    numbers = client.embeddings.create(model=EMBED, input=texts, encoding_format="float")
    packed = client.embeddings.create(model=EMBED, input=texts, encoding_format="base64")
    for index in range(2):
        vector = numbers.data[index].embedding
        assert by_default.data[index].embedding == pytest.approx(vector, abs=1e-7)
        raw = base64.b64decode(str(packed.data[index].embedding))
        assert struct.unpack(f"<{len(vector)}f", raw) == pytest.approx(vector, abs=1e-7)
        assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-3)
    assert numbers.object == "list"
    assert numbers.model == EMBED
    assert numbers.usage.prompt_tokens == numbers.usage.total_tokens > 4
    one = client.embeddings.create(model=EMBED, input=texts[1], encoding_format="float")
    assert one.data[0].embedding == pytest.approx(numbers.data[1].embedding, abs=1e-4)


def test_models_are_listed_and_found_by_id_and_alias(client: openai.OpenAI) -> None:
    ids = {model.id for model in client.models.list()}
    assert {"demo/chat", "demo/embed", CHAT, EMBED} <= ids
    for name in ("demo/chat", EMBED):
        model = client.models.retrieve(name)
        assert (model.id, model.object, model.owned_by) == (name, "model", "operayde")


def test_both_prefixes_serve_the_same(appliance: Serving) -> None:
    with openai.OpenAI(base_url=f"{appliance.url}/api/v1", api_key=appliance.key) as client:
        assert client.chat.completions.create(model=CHAT, messages=HELLO).choices


@pytest.mark.parametrize(
    ("call", "kind", "code", "param"),
    [
        ({"model": "no/such"}, openai.NotFoundError, "model_not_found", "model"),
        ({"model": EMBED}, openai.NotFoundError, "model_not_found", "model"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_request", "temperature"),
        ({"max_tokens": 0}, openai.BadRequestError, "invalid_request", "max_tokens"),
        ({"n": 9}, openai.BadRequestError, "invalid_request", "n"),
        ({"stop": ["a"] * 5}, openai.BadRequestError, "invalid_request", "stop"),
        ({"messages": []}, openai.BadRequestError, "invalid_request", "messages"),
        ({"top_logprobs": 2}, openai.BadRequestError, "invalid_request", "top_logprobs"),
        (
            {"max_tokens": 100_000},
            openai.BadRequestError,
            "context_length_exceeded",
            "max_tokens",
        ),
        (
            {"messages": [{"role": "user", "content": "word " * 5000}]},
            openai.BadRequestError,
            "context_length_exceeded",
            "messages",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_exceptions_with_code_and_param(
    client: openai.OpenAI,
    call: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    param: str,
    stream: bool,
) -> None:
    request: dict[str, Any] = {"model": CHAT, "messages": HELLO, "stream": stream, **call}
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**request)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.request_id is not None
    assert caught.value.request_id in str(caught.value.body)


def test_a_wrong_key_is_an_authentication_error(appliance: Serving) -> None:
    with (
        openai.OpenAI(base_url=appliance.base_url, api_key="sk-none", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "unauthorized"
    assert caught.value.type == "auth"


@pytest.mark.parametrize(
    ("more", "param"),
    [({"input": ""}, "input"), ({"input": []}, "input"), ({"dimensions": 7}, "dimensions")],
)
def test_embeddings_refuse_what_they_cannot_do(
    client: openai.OpenAI, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": EMBED, "input": "x", **more})
    assert caught.value.param == param


async def test_many_streams_at_once_keep_apart(scripted: openai.AsyncOpenAI) -> None:
    texts = [f"answer number {number} ☃ " * 5 for number in range(32)]
    answers = await asyncio.gather(
        *(streamed(scripted, says(emit=text, delay_ms=1)) for text in texts)
    )
    assert answers == [(text, "stop") for text in texts]


@pytest.mark.parametrize("grouped", [1, 3, 64])
async def test_characters_arrive_whole_however_the_engine_cuts_them(
    scripted: openai.AsyncOpenAI, grouped: int
) -> None:
    text = "naïve 東京 😀 👩‍👩‍👧 end"
    messages = says(emit=text, tokens_per_response=grouped)
    stream = await scripted.chat.completions.create(model=SCRIPTED, messages=messages, stream=True)
    deltas = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert "".join(deltas) == text
    assert not any("\ufffd" in delta for delta in deltas)


async def test_half_a_character_at_the_end_is_replaced(scripted: openai.AsyncOpenAI) -> None:
    half = "é東".encode()[:-1].hex()
    assert await streamed(scripted, says(emit_hex=half)) == ("é\ufffd", "stop")


async def test_a_stop_string_across_tokens_never_shows(scripted: openai.AsyncOpenAI) -> None:
    messages = says(emit="one two three two", tokens_per_response=2)
    assert await streamed(scripted, messages, stop=["wo t", "zzz"]) == ("one t", "stop")
    whole = await scripted.chat.completions.create(model=SCRIPTED, messages=messages, stop=["wo t"])
    assert whole.choices[0].message.content == "one t"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == len("one two t")


async def test_a_failure_before_the_first_token_is_a_status(scripted: openai.AsyncOpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            await scripted.chat.completions.create(
                model=SCRIPTED, messages=says(emit="abc", fail_at=0), stream=stream
            )
        assert caught.value.status_code == 502
        assert "engine.cpp" not in str(caught.value.body)


async def test_a_failure_in_mid_stream_is_raised_after_the_text_so_far(
    scripted: openai.AsyncOpenAI,
) -> None:
    seen: list[str] = []

    async def read() -> None:
        messages = says(emit="abcdef", fail_at=3, delay_ms=20)
        stream = await scripted.chat.completions.create(
            model=SCRIPTED, messages=messages, stream=True
        )
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content or "")

    with pytest.raises(openai.APIError) as caught:
        await read()
    assert "".join(seen) == "abc"
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert "engine.cpp" not in str(caught.value.body)
