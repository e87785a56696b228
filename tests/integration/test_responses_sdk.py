"""The official OpenAI client for Python and its responses, against the whole appliance."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage
from pydantic import BaseModel

from tests.integration.scripted.repository import ScriptedRepository, script
from tests.integration.serving import Serving

CHAT = "operayde/instruct-13b"
SCRIPTED, THINKER = "scripted/scripted", "scripted/thinker"
INSTRUCTIONS = "You are a helpful assistant."
QUESTION = "What is the capital of France?"
ASKED: dict[str, Any] = {"model": CHAT, "instructions": INSTRUCTIONS, "input": QUESTION}
MESSAGES: list[Any] = [
    {"role": "system", "content": INSTRUCTIONS},
    {"role": "user", "content": QUESTION},
]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
WAIT_S = 60.0


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


def counts(response: Response) -> tuple[int, int, int]:
    """The tokens of a response; how many of them were known already depends on what came before."""
    assert response.usage is not None
    usage = response.usage
    return usage.input_tokens, usage.output_tokens, usage.total_tokens


async def ended(client: openai.AsyncOpenAI, response_id: str) -> Response:
    """The background response once it is over, asked for again and again as the manual says."""
    give_up_at = time.monotonic() + WAIT_S
    while True:
        response = await client.responses.retrieve(response_id)
        if response.status not in ("queued", "in_progress"):
            return response
        assert time.monotonic() < give_up_at, response.status
        await asyncio.sleep(0.05)


def test_a_response_says_what_a_chat_says(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model=CHAT, messages=MESSAGES, temperature=1, seed=5)
    response = client.responses.create(**ASKED, temperature=1, extra_body={"seed": 5})
    assert response.id.startswith("resp_")
    assert (response.object, response.status, response.model) == ("response", "completed", CHAT)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    assert response.usage.total_tokens == chat.usage.total_tokens
    assert response.instructions == INSTRUCTIONS
    assert response.error is None
    assert response.completed_at is not None


def test_a_stream_says_the_same_as_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.responses.create(**ASKED, temperature=0)
    events = list(client.responses.create(**ASKED, temperature=0, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == whole.output_text
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == said
    assert counts(last.response) == counts(whole)
    with client.responses.stream(**ASKED, temperature=0) as stream:
        assert stream.get_final_response().output_text == said


def test_an_answer_is_cut_at_the_limit_and_says_why(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASKED, temperature=0, max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 2
    *_, last = client.responses.create(**ASKED, temperature=0, max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete"
    assert last.response.output_text == response.output_text


def test_a_conversation_goes_on_from_a_stored_response(client: openai.OpenAI) -> None:
    first = client.responses.create(model=CHAT, input=QUESTION, temperature=0)
    by_reference = client.responses.create(
        model=CHAT, input="And of Italy?", previous_response_id=first.id, temperature=0
    )
    # By hand, with the output items as they came, it is the same conversation.
    by_hand = client.responses.create(
        model=CHAT,
        input=[
            {"role": "user", "content": QUESTION},
            *[item.to_dict() for item in first.output],  # type: ignore[list-item]  # as the manual does
            {"role": "user", "content": "And of Italy?"},
        ],
        temperature=0,
    )
    assert by_reference.previous_response_id == first.id
    assert by_reference.output_text == by_hand.output_text
    assert counts(by_reference) == counts(by_hand)
    items = list(client.responses.input_items.list(by_reference.id, order="asc", limit=1))
    texts = [item.to_dict()["content"][0]["text"] for item in items]  # type: ignore[index]  # a list
    assert texts == [QUESTION, first.output_text, "And of Italy?"]
    counted = client.responses.input_tokens.count(
        model=CHAT, input="And of Italy?", previous_response_id=first.id
    )
    assert by_reference.usage is not None
    assert counted.input_tokens == by_reference.usage.input_tokens
    assert counted.object == "response.input_tokens"


def test_a_response_is_retrieved_streamed_again_and_deleted(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASKED, temperature=0, metadata={"for": "a test"})
    again = client.responses.retrieve(response.id)
    assert again == response
    assert again.metadata == {"for": "a test"}
    events = list(client.responses.retrieve(response.id, stream=True))
    assert events[-1].type == "response.completed"
    assert events[-1].response == response
    rest = list(client.responses.retrieve(response.id, stream=True, starting_after=2))
    assert rest == events[3:]
    with client.responses.stream(response_id=response.id, starting_after=2) as stream:
        assert stream.get_final_response().output_text == response.output_text
    with pytest.raises(openai.BadRequestError, match="does not run in the background"):
        client.responses.cancel(response.id)
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve(response.id)
    assert caught.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model=CHAT, input="x", previous_response_id=response.id)
    assert caught.value.code == "previous_response_not_found"


def test_what_is_not_stored_cannot_be_retrieved(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASKED, store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


class Place(BaseModel):
    city: Literal["Paris", "Rome", "Oslo"]
    large: bool


def test_an_answer_is_parsed_into_the_type_that_was_asked_for(client: openai.OpenAI) -> None:
    response = client.responses.parse(model=CHAT, input=QUESTION, text_format=Place, temperature=0)
    assert isinstance(response.output_parsed, Place)
    with client.responses.stream(
        model=CHAT, input=QUESTION, text_format=Place, temperature=0
    ) as stream:
        assert stream.get_final_response().output_parsed == response.output_parsed
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"


def test_a_tool_is_called_as_in_a_chat_and_its_result_told(client: openai.OpenAI) -> None:
    question: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    chats_tools: list[Any] = [{"type": "function", "function": WEATHER}]
    chat = client.chat.completions.create(
        model=CHAT,
        messages=question,
        tools=chats_tools,
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
    )
    tools: list[Any] = [{"type": "function", **WEATHER}]
    asked: dict[str, Any] = {"model": CHAT, "tools": tools, "temperature": 0}
    asked["parallel_tool_calls"] = False
    response = client.responses.create(**asked, input=question, tool_choice="required")
    (call,) = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
    (chats_call,) = chat.choices[0].message.tool_calls or []
    assert isinstance(chats_call, ChatCompletionMessageFunctionToolCall)
    assert call.name == chats_call.function.name == "get_weather"
    assert call.arguments == chats_call.function.arguments
    assert chat.usage is not None
    assert counts(response)[1] == chat.usage.completion_tokens
    json.loads(call.arguments)
    events = list(
        client.responses.create(**asked, input=question, tool_choice="required", stream=True)
    )
    (done,) = [
        event
        for event in events
        if event.type == "response.output_item.done" and event.item.type == "function_call"
    ]
    assert done.item.type == "function_call"
    assert done.item.arguments == call.arguments
    told = "".join(
        event.delta for event in events if event.type == "response.function_call_arguments.delta"
    )
    assert told == call.arguments
    answer = client.responses.create(
        **asked,
        input=[
            {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
        ],
        previous_response_id=response.id,
    )
    assert answer.status in ("completed", "incomplete")
    assert isinstance(answer.output[0], (ResponseOutputMessage, ResponseFunctionToolCall))


def test_log_probabilities_come_with_the_text(client: openai.OpenAI) -> None:
    response = client.responses.create(
        **ASKED,
        temperature=0,
        max_output_tokens=3,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    assert isinstance(response.output[0], ResponseOutputMessage)
    part = response.output[0].content[0]
    assert part.type == "output_text"
    assert part.logprobs
    assert len(part.logprobs) == 3
    assert all(len(one.top_logprobs) == 2 for one in part.logprobs)
    assert bytes(byte for one in part.logprobs for byte in one.bytes).decode() == part.text


def test_a_prompt_that_is_too_long_is_refused_or_loses_its_beginning(
    client: openai.OpenAI,
) -> None:
    context = client.models.retrieve(CHAT).context_tokens  # type: ignore[attr-defined]  # ours
    items: list[Any] = [{"role": "user", "content": "one two three four " * 20}] * (context // 50)
    items.append({"role": "user", "content": QUESTION})
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=CHAT, input=items, max_output_tokens=5)
    assert caught.value.code == "context_length_exceeded"
    response = client.responses.create(
        model=CHAT, input=items, max_output_tokens=5, truncation="auto"
    )
    assert response.usage is not None
    assert context // 2 < response.usage.input_tokens <= context - 5


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"temperature": 3}, "temperature"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ],
)
def test_what_cannot_be_done_is_named(
    client: openai.OpenAI, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ASKED, **more)
    assert caught.value.param == param


async def test_the_background_goes_on_without_a_connection(scripted: openai.AsyncOpenAI) -> None:
    prompt = script(emit="0123456789", delay_ms=50)
    queued = await scripted.responses.create(model=SCRIPTED, input=prompt, background=True)
    assert queued.status == "queued"
    response = await ended(scripted, queued.id)
    assert (response.status, response.output_text) == ("completed", "0123456789")
    assert response.background is True
    assert response.usage is not None
    assert response.usage.output_tokens == 10


async def test_a_background_stream_is_taken_up_again_where_it_broke(
    scripted: openai.AsyncOpenAI,
) -> None:
    prompt = script(emit="abcdefghij" * 3, delay_ms=50)
    stream = await scripted.responses.create(
        model=SCRIPTED, input=prompt, background=True, stream=True
    )
    text, number, response_id = "", -1, ""
    async for event in stream:
        number = event.sequence_number
        if event.type == "response.created":
            response_id = event.response.id
        if event.type == "response.output_text.delta":
            text += event.delta
            if len(text) >= 5:
                break
    await stream.close()
    assert len(text) < 30
    rest = await scripted.responses.retrieve(response_id, stream=True, starting_after=number)
    async for event in rest:
        assert event.sequence_number == number + 1
        number = event.sequence_number
        if event.type == "response.output_text.delta":
            text += event.delta
    assert event.type == "response.completed"
    assert text == event.response.output_text == "abcdefghij" * 3


async def test_a_cancelled_response_stops_the_engine(
    scripted: openai.AsyncOpenAI, scripted_repository: ScriptedRepository
) -> None:
    prompt = script(emit="x", repeat=4000, delay_ms=20)
    queued = await scripted.responses.create(
        model=SCRIPTED,
        input=prompt,
        background=True,
        extra_headers={"x-request-id": "cancelled-in-the-background"},
    )
    give_up_at = time.monotonic() + WAIT_S
    while not _happened(scripted_repository, "token"):
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.05)
    cancelled = await scripted.responses.cancel(queued.id)
    assert cancelled.status == "cancelled"
    assert (await scripted.responses.cancel(queued.id)).status == "cancelled"
    while not _happened(scripted_repository, "final"):
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.05)
    assert (await scripted.responses.retrieve(queued.id)).status == "cancelled"


def _happened(repository: ScriptedRepository, event: str) -> bool:
    found = repository.events("cancelled-in-the-background")
    return any(one["event"] == event for one in found)


async def test_a_failure_after_the_first_token_is_the_last_event(
    scripted: openai.AsyncOpenAI,
) -> None:
    prompt = script(emit="abcdef", fail_at=3)
    stream = await scripted.responses.create(model=SCRIPTED, input=prompt, stream=True)
    events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert "engine.cpp" not in last.response.error.message
    assert last.response.output_text == "abc"
    assert sum(event.type == "response.output_item.done" for event in events) == 1
    # The helper, which promises an answer, raises.
    async with scripted.responses.stream(model=SCRIPTED, input=prompt) as helper:
        with pytest.raises(RuntimeError, match=r"response\.completed"):
            await helper.get_final_response()
    # In one piece it is an error of HTTP, and in the background one of the response.
    with pytest.raises(openai.APIStatusError) as caught:
        await scripted.responses.create(model=SCRIPTED, input=prompt)
    assert caught.value.status_code in (502, 503)
    queued = await scripted.responses.create(model=SCRIPTED, input=prompt, background=True)
    failed = await ended(scripted, queued.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.code == "server_error"


async def test_reasoning_is_an_item_of_its_own(scripted: openai.AsyncOpenAI) -> None:
    prompt = script(emit="<think>\nWell.\n</think>\n\nYes.")
    chat: Any = await scripted.chat.completions.create(
        model=THINKER, messages=[{"role": "user", "content": prompt}]
    )
    response = await scripted.responses.create(model=THINKER, input=prompt)
    thought, message = response.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert thought.content[0].text == chat.choices[0].message.reasoning_content
    assert message.type == "message"
    assert response.output_text == chat.choices[0].message.content == "Yes."
    assert response.usage is not None
    told = response.usage.output_tokens_details.reasoning_tokens
    assert told == chat.usage.completion_tokens_details.reasoning_tokens > 0
    # What was thought goes along when the conversation does, as it does in a chat.
    follow_up = await scripted.responses.create(
        model=THINKER, input=prompt, previous_response_id=response.id
    )
    items = await scripted.responses.input_items.list(follow_up.id, order="asc")
    assert [item.type for item in items.data] == ["message", "reasoning", "message", "message"]


async def test_nothing_of_an_unstored_response_lies_on_the_disk(
    scripted: openai.AsyncOpenAI, scripted_appliance: Serving
) -> None:
    def lies_there(text: str) -> bool:
        files = [path for path in scripted_appliance.data_dir.rglob("*") if path.is_file()]
        return any(text.encode() in path.read_bytes() for path in files)

    kept, unkept = "kept-7f3a1c", "unkept-9b2d4e"
    for stream in (False, True):
        answer: Any = await scripted.responses.create(
            model=SCRIPTED, input=unkept, store=False, stream=stream
        )
        if stream:
            assert [event async for event in answer][-1].response.output_text == unkept
    stored = await scripted.responses.create(model=SCRIPTED, input=kept)
    assert stored.output_text == kept
    assert lies_there(kept)
    assert not lies_there(unkept)
