"""Legacy completions and token counts, by the official OpenAI client, against the appliance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.integration.scripted.repository import script
from tests.integration.serving import Serving

CHAT, SCRIPTED = "demo/chat", "scripted/scripted"
PROMPT = "The capital of France"


@pytest.fixture(scope="module")
def client(appliance: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=appliance.base_url, api_key=appliance.key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def scripted(scripted_appliance: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=scripted_appliance.base_url, api_key=scripted_appliance.key, max_retries=0
    ) as made:
        yield made


def complete(client: openai.OpenAI, **more: Any) -> Any:
    return client.completions.create(**{"model": CHAT, "prompt": PROMPT, "temperature": 0, **more})


def texts(answer: Any) -> list[str]:
    assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
    return [choice.text for choice in answer.choices]


def tokens_of(client: openai.OpenAI, text: str, **more: Any) -> list[int]:
    told = client.post(
        "/tokenize", body={"model": CHAT, "prompt": text, **more}, cast_to=dict[str, Any]
    )
    assert told["count"] == len(told["tokens"])
    assert told["max_model_len"] == 2048
    ids: list[int] = told["tokens"]
    return ids


def streamed(client: openai.OpenAI, **more: Any) -> tuple[dict[int, str], list[Any]]:
    chunks = list(complete(client, stream=True, **more))
    told: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            told[choice.index] = told.get(choice.index, "") + choice.text
    return told, chunks


def test_a_prompt_is_continued(client: openai.OpenAI) -> None:
    answer = complete(client, max_tokens=8)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.choices[0].logprobs is None
    assert answer.usage.prompt_tokens == len(tokens_of(client, PROMPT))
    told, chunks = streamed(client, max_tokens=8, stream_options={"include_usage": True})
    assert told[0] == answer.choices[0].text
    assert chunks[-1].usage == answer.usage
    assert all(chunk.id == chunks[0].id for chunk in chunks)
    assert sum(len(text) for text in texts(complete(client, seed=1, temperature=2))) > 0


def test_sixteen_tokens_are_the_default(scripted: openai.OpenAI) -> None:
    answer = complete(scripted, model=SCRIPTED, prompt="x" * 40)
    assert answer.choices[0].text == "x" * 16
    assert answer.choices[0].finish_reason == "length"


def test_texts_and_token_ids_mean_the_same(client: openai.OpenAI) -> None:
    ids = tokens_of(client, PROMPT)
    by_text = complete(client, max_tokens=6)
    by_ids = complete(client, prompt=ids, max_tokens=6)
    assert texts(by_ids) == texts(by_text)
    assert by_ids.usage.prompt_tokens == by_text.usage.prompt_tokens
    both = complete(client, prompt=[ids, ids], max_tokens=6)
    assert texts(both) == texts(by_text) * 2
    assert both.usage.completion_tokens == 2 * by_text.usage.completion_tokens


def test_choices_of_several_prompts_stand_prompt_by_prompt(scripted: openai.OpenAI) -> None:
    prompts = ["one", "two", "three"]
    answer = complete(scripted, model=SCRIPTED, prompt=prompts, n=2)
    assert texts(answer) == ["one", "one", "two", "two", "three", "three"]
    assert answer.usage.prompt_tokens == len("onetwothree")
    assert answer.usage.completion_tokens == 2 * len("onetwothree")
    slow = [script(emit=text, delay_ms=3) for text in ("first", "second")]
    told, chunks = streamed(scripted, model=SCRIPTED, prompt=slow)
    assert told == {0: "first", 1: "second"}
    order = [chunk.choices[0].index for chunk in chunks]
    assert order != sorted(order)


def test_the_prompt_is_repeated_when_asked_for(client: openai.OpenAI) -> None:
    plain = complete(client, max_tokens=5).choices[0].text
    assert texts(complete(client, max_tokens=5, echo=True)) == [PROMPT + plain]
    ids = tokens_of(client, PROMPT, add_special_tokens=False)
    echoed = complete(client, prompt=ids, max_tokens=5, echo=True).choices[0].text
    assert echoed.startswith(PROMPT)
    told, _ = streamed(client, max_tokens=5, echo=True)
    assert told == {0: PROMPT + plain}


def test_log_probabilities_are_parallel_lists(client: openai.OpenAI) -> None:
    answer = complete(client, max_tokens=7, logprobs=2)
    told = answer.choices[0].logprobs
    assert "".join(told.tokens) == answer.choices[0].text
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs)
    for token, log_prob, top, offset in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset, strict=True
    ):
        assert log_prob == pytest.approx(top[token], abs=1e-3)
        assert top[token] == max(top.values())
        assert len(top) == 2
        assert answer.choices[0].text[offset:].startswith(token)
    _, chunks = streamed(client, max_tokens=7, logprobs=2)
    offsets = [
        offset
        for chunk in chunks
        for choice in chunk.choices
        for offset in (choice.logprobs.text_offset if choice.logprobs else [])
    ]
    assert offsets == told.text_offset


def test_a_stop_string_ends_a_continuation(scripted: openai.OpenAI) -> None:
    answer = complete(scripted, model=SCRIPTED, prompt="one two three", stop=[" th", "x"])
    assert (texts(answer), answer.choices[0].finish_reason) == (["one two"], "stop")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"suffix": "."}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"prompt": ["a"] * 200}, "prompt"),
        ({"prompt": [5, 10**8]}, "prompt"),
        ({"logprobs": 9}, "logprobs"),
        ({"extra_body": {"max_new_tokens": 5}}, "max_new_tokens"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused(
    client: openai.OpenAI, more: dict[str, Any], param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, stream=stream, **more)
    assert caught.value.param == param


def test_one_prompt_that_fails_at_its_begin_fails_all(scripted: openai.OpenAI) -> None:
    prompts = [script(emit="abc", delay_ms=50), script(emit="abc", fail_at=0)]
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            complete(scripted, model=SCRIPTED, prompt=prompts, stream=stream)
        assert caught.value.status_code == 502


def test_one_prompt_that_fails_later_ends_the_stream(scripted: openai.OpenAI) -> None:
    prompts = [script(emit="a" * 16, delay_ms=30), script(emit="abc", fail_at=2, delay_ms=5)]
    with pytest.raises(openai.APIError) as caught:
        streamed(scripted, model=SCRIPTED, prompt=prompts)
    assert not isinstance(caught.value, openai.APIStatusError)


def test_tokens_of_conversations_are_those_of_the_call(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
    told = client.post(
        "/tokenize",
        body={"model": CHAT, "messages": messages, "return_token_strs": True},
        cast_to=dict[str, Any],
    )
    answer = client.chat.completions.create(model=CHAT, messages=messages, max_tokens=1)
    assert answer.usage is not None
    assert told["count"] == answer.usage.prompt_tokens
    back = client.post(
        "/detokenize", body={"model": CHAT, "tokens": told["tokens"]}, cast_to=dict[str, Any]
    )
    assert "capital of France" in back["prompt"]
    assert "".join(told["token_strs"]) == back["prompt"]


def test_tokens_of_a_chat_are_continued_as_the_chat_is(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
    sampling: dict[str, Any] = {"model": CHAT, "temperature": 1.1, "seed": 11, "max_tokens": 24}
    chat = client.chat.completions.create(messages=messages, n=2, **sampling)
    told = client.post(
        "/tokenize", body={"model": CHAT, "messages": messages}, cast_to=dict[str, Any]
    )
    answer = client.completions.create(prompt=told["tokens"], n=2, **sampling)
    assert texts(answer) == [choice.message.content for choice in chat.choices]
    assert [choice.finish_reason for choice in answer.choices] == [
        choice.finish_reason for choice in chat.choices
    ]
    assert answer.usage is not None
    assert chat.usage is not None
    assert answer.usage.completion_tokens == chat.usage.completion_tokens
    assert answer.usage.prompt_tokens == chat.usage.prompt_tokens
