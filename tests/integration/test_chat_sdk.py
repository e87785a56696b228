"""Every feature of chat completions, by the official OpenAI client, against the whole appliance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel, Field

from tests.integration.scripted.repository import script
from tests.integration.serving import Serving

CHAT, SCRIPTED, THINKER = "demo/chat", "scripted/scripted", "scripted/thinker"
HELLO: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
IN_OSLO: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]


class City(BaseModel):
    """What the model is to tell of a city."""

    name: str = Field(max_length=12)
    is_capital: bool
    districts: list[int] = Field(max_length=3)


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


def chat(client: openai.OpenAI, **more: Any) -> ChatCompletion:
    request = {"model": CHAT, "messages": HELLO, "temperature": 0, "max_tokens": 120, **more}
    answer: ChatCompletion = client.chat.completions.create(**request)
    return answer


def chunks(client: openai.OpenAI, **more: Any) -> list[Any]:
    request = {"model": CHAT, "messages": HELLO, "temperature": 0, "max_tokens": 120, **more}
    return list(client.chat.completions.create(stream=True, **request))


def calls(answer: Any) -> list[tuple[str, Any]]:
    told = answer.choices[0].message.tool_calls or []
    assert all(isinstance(call, ChatCompletionMessageFunctionToolCall) for call in told)
    return [(call.function.name, json.loads(call.function.arguments)) for call in told]


def refused(client: openai.OpenAI, **more: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **more)
    return caught.value


def test_any_json_is_an_object(client: openai.OpenAI) -> None:
    answer = chat(client, response_format={"type": "json_object"}, max_tokens=400)
    choice = answer.choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)
    else:
        assert (choice.message.content or "").startswith("{")


def test_a_schema_is_kept_to_and_parsed_by_the_client(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": CHAT, "messages": HELLO, "temperature": 0}
    parsed = client.chat.completions.parse(response_format=City, **request)
    assert isinstance(parsed.choices[0].message.parsed, City)
    assert parsed.choices[0].finish_reason == "stop"
    with client.chat.completions.stream(response_format=City, **request) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == parsed.choices[0].message.content
    assert final.choices[0].message.parsed == parsed.choices[0].message.parsed


def test_a_schema_cut_by_the_limit_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model=CHAT, messages=HELLO, response_format=City, max_completion_tokens=3
        )


def schema(value: Any, **more: Any) -> dict[str, Any]:
    named = {"name": "wanted", "schema": value, **more}
    return {"type": "json_schema", "json_schema": named}


def test_a_keyword_of_no_engine_is_named_by_its_path(client: openai.OpenAI) -> None:
    odd = {"type": "object", "properties": {"x": {"uniqueItems": True}}}
    error = refused(client, response_format=schema(odd))
    assert error.param == "response_format.json_schema.schema.properties.x.uniqueItems"
    assert error.code == "invalid_request"


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_the_engine_refuses_is_the_callers_fault(
    client: openai.OpenAI, stream: bool
) -> None:
    both = {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}
    error = refused(client, response_format=schema(both), stream=stream)
    assert error.param == "response_format"
    assert "oneOf" in error.message
    endless = {"type": "string", "minLength": 5, "maxLength": 3}
    assert "minLength" in refused(client, response_format=schema(endless)).message


def test_a_required_call_comes_whatever_was_asked(client: openai.OpenAI) -> None:
    tools = [NOW, WEATHER]
    one = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300}
    answer = chat(client, messages=HELLO, tools=tools, **one)
    assert answer.choices[0].finish_reason == "tool_calls"
    ((name, _),) = calls(answer)
    assert name in {"now", "get_weather"}
    assert answer.choices[0].message.content is None
    only = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "get_weather"}}],
        },
    }
    restricted = chat(client, tools=tools, tool_choice=only, parallel_tool_calls=False)
    ((name, arguments),) = calls(restricted)
    assert name == "get_weather"
    assert arguments.keys() == {"city"}


def test_a_named_tool_is_called_and_streamed_alike(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    request: dict[str, Any] = {"messages": IN_OSLO, "tools": [WEATHER], "tool_choice": named}
    answer = chat(client, **request)
    ((name, arguments),) = calls(answer)
    assert (name, arguments.keys()) == ("get_weather", {"city"})
    assert answer.choices[0].finish_reason == "tool_calls"
    deltas = [
        c.choices[0].delta.tool_calls[0]
        for c in chunks(client, **request)
        if c.choices and c.choices[0].delta.tool_calls
    ]
    assert deltas[0].id is not None
    assert deltas[0].function.name == "get_weather"
    assert {delta.index for delta in deltas} == {0}
    assert len(deltas) > 2
    told = "".join(delta.function.arguments for delta in deltas)
    assert json.loads(told) == arguments


@pytest.mark.parametrize("stream", [False, True])
def test_a_format_is_for_answers_and_leaves_calls_alone(
    client: openai.OpenAI, stream: bool
) -> None:
    request: dict[str, Any] = {
        "model": CHAT, "temperature": 0, "tools": [WEATHER], "response_format": City, "n": 2,
    }  # fmt: skip

    def final(messages: list[Any]) -> Any:
        if not stream:
            return client.chat.completions.parse(messages=messages, **request)
        with client.chat.completions.stream(messages=messages, **request) as events:
            return events.get_final_completion()

    for choice in final(IN_OSLO).choices:
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert json.loads(call.function.arguments) == {"city": "Oslo"}
    for choice in final(HELLO).choices:
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, City)
        assert not choice.message.tool_calls


def test_a_call_that_the_limit_cuts_ends_with_length(client: openai.OpenAI) -> None:
    cut = chat(client, tools=[WEATHER], tool_choice="required", max_tokens=12)
    assert cut.choices[0].finish_reason == "length"


def test_tools_that_may_not_be_called_are_not(client: openai.OpenAI) -> None:
    answer = chat(client, messages=IN_OSLO, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content
    bare = chat(client, messages=IN_OSLO)
    assert answer.usage is not None
    assert bare.usage is not None
    assert answer.usage.prompt_tokens == bare.usage.prompt_tokens


def test_functions_as_they_were_before_tools(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"messages": IN_OSLO, "functions": [WEATHER["function"]]}
    answer = chat(client, **request, function_call={"name": "get_weather"})
    message = answer.choices[0].message
    assert message.function_call is not None
    assert message.function_call.name == "get_weather"
    assert answer.choices[0].finish_reason == "function_call"
    told = [message.to_dict(), {"role": "function", "name": "get_weather", "content": "rain"}]
    assert chat(client, messages=[*IN_OSLO, *told]).choices[0].message.content


def test_log_probabilities_tell_of_every_token_of_the_text(client: openai.OpenAI) -> None:
    answer = chat(client, logprobs=True, top_logprobs=3)
    choice = answer.choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    raw = b"".join(bytes(token.bytes or []) for token in content)
    assert raw.decode() == choice.message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in content)
    # Greedy: what was drawn is the likeliest.
    assert [token.top_logprobs[0].token for token in content] == [token.token for token in content]
    streamed = [
        token
        for chunk in chunks(client, logprobs=True, top_logprobs=3)
        for choice_ in chunk.choices
        for token in (choice_.logprobs.content if choice_.logprobs else [])
    ]
    assert [token.token for token in streamed] == [token.token for token in content]
    assert [token.logprob for token in streamed] == pytest.approx(
        [token.logprob for token in content], abs=1e-3
    )
    none = chat(client, logprobs=True).choices[0].logprobs
    assert none is not None
    assert all(token.top_logprobs == [] for token in none.content or [])
    assert chat(client).choices[0].logprobs is None


def test_an_engine_without_them_refuses_log_probabilities_and_guides(
    scripted: openai.OpenAI,
) -> None:
    request: dict[str, Any] = {
        "model": SCRIPTED,
        "messages": [{"role": "user", "content": script(emit="x")}],
    }
    assert refused(scripted, **request, logprobs=True).param == "logprobs"
    error = refused(scripted, **request, response_format={"type": "json_object"})
    assert error.param == "response_format"
    assert "guided decoding" in error.message
    error = refused(scripted, **request, tools=[NOW], tool_choice="required")
    assert error.param == "tool_choice"


def test_sampling_parameters_reach_the_engine(client: openai.OpenAI) -> None:
    token = client.post(
        "/tokenize", body={"model": CHAT, "prompt": "Paris", "add_special_tokens": False},
        cast_to=dict[str, Any],
    )  # fmt: skip
    first = token["tokens"][0]
    biased = chat(client, logit_bias={str(first): 100}, max_tokens=4)
    one = client.post(
        "/detokenize", body={"model": CHAT, "tokens": [first]}, cast_to=dict[str, Any]
    )
    assert biased.choices[0].message.content == one["prompt"] * 4
    greedy = chat(client).choices[0].message.content
    for extra in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 0.0}):
        by_extra = chat(client, temperature=2, seed=1, extra_body=extra)
        assert by_extra.choices[0].message.content == greedy
    penalised = chat(
        client, logit_bias={str(first): 20}, frequency_penalty=2, presence_penalty=2, max_tokens=30,
        extra_body={"repetition_penalty": 5},
    )  # fmt: skip
    assert penalised.choices[0].message.content != one["prompt"] * 30


def test_what_was_computed_before_is_told_as_cached(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Tell me about towns and rivers again. " * 12}]
    chat(client, messages=messages, max_tokens=2)
    usage = chat(client, messages=messages, max_tokens=2).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    assert 0 < (usage.prompt_tokens_details.cached_tokens or 0) < usage.prompt_tokens
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_what_has_no_effect_here_is_accepted(client: openai.OpenAI) -> None:
    answer = chat(
        client,
        user="somebody",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        safety_identifier="x",
        prompt_cache_key="x",
        verbosity="low",
        reasoning_effort="low",
        prediction={"type": "content", "content": "Paris"},
        modalities=["text"],
    )
    assert answer.choices[0].message.content == chat(client).choices[0].message.content


def test_text_parts_are_taken_for_every_role(client: openai.OpenAI) -> None:
    def parts(*texts: str) -> list[dict[str, str]]:
        return [{"type": "text", "text": text} for text in texts]

    messages = [
        {"role": "developer", "content": parts("You are a ", "helpful assistant.")},
        {"role": "user", "content": parts("What is the capital", " of France?")},
        {"role": "assistant", "content": parts("Paris.")},
        {"role": "user", "content": parts("And of Norway?")},
    ]
    assert chat(client, messages=messages).choices[0].message.content


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ],
)
def test_other_parts_are_refused_with_what_the_model_takes(
    client: openai.OpenAI, part: dict[str, Any]
) -> None:
    error = refused(client, messages=[{"role": "user", "content": [part]}])
    assert error.param == "messages[0].content[0]"
    assert "the model `demo/chat` reads text only" in error.message


def test_an_answer_that_is_begun_is_continued(client: openai.OpenAI) -> None:
    whole = chat(client).choices[0].message.content or ""
    begun = [*HELLO, {"role": "assistant", "content": whole[:9]}]
    rest = chat(client, messages=begun, extra_body={"continue_final_message": True})
    assert rest.choices[0].message.content
    assert not (rest.choices[0].message.content or "").startswith(whole[:9])


def test_a_misspelt_limit_is_refused(client: openai.OpenAI) -> None:
    error = refused(client, extra_body={"max_token": 5})
    assert error.param == "max_token"
    assert "did you mean `max_tokens`?" in error.message


def test_usage_is_streamed_only_when_asked_for(client: openai.OpenAI) -> None:
    plain = chunks(client)
    assert all("usage" not in chunk.to_dict() for chunk in plain)
    asked = chunks(client, stream_options={"include_usage": True})
    assert asked[-1].choices == []
    assert asked[-1].usage == chat(client).usage


def call_text(name: str, arguments: str) -> str:
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


def thinker(emit: str, **more: Any) -> dict[str, Any]:
    fields = {"emit": emit, "tokens_per_response": 3, **more.pop("fields", {})}
    messages = [{"role": "user", "content": script(**fields)}]
    common = {"model": THINKER, "messages": messages, "tools": [NOW, WEATHER], "max_tokens": 500}
    return {**common, **more}


def test_thoughts_are_told_apart_from_the_answer(scripted: openai.OpenAI) -> None:
    request = thinker("<think>\nHm, 東京?\n</think>\n\nTokyo.")
    whole = chat(scripted, **request)
    message = whole.choices[0].message
    thoughts = message.to_dict()["reasoning_content"]
    assert "Hm, 東京?" in str(thoughts)
    assert message.content == "Tokyo."
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    thought = whole.usage.completion_tokens_details.reasoning_tokens or 0
    assert len("Hm, 東京?".encode()) < thought < whole.usage.completion_tokens
    deltas = [
        choice.delta.to_dict() for chunk in chunks(scripted, **request) for choice in chunk.choices
    ]
    assert "".join(str(delta.get("reasoning_content", "")) for delta in deltas) == thoughts
    assert "".join(str(delta.get("content", "")) for delta in deltas) == "Tokyo."


def test_parallel_calls_are_streamed_by_their_index(scripted: openai.OpenAI) -> None:
    arguments = '{"city": "Zürich \\"}{<tool_call>"}'
    emitted = "Let me see. " + call_text("get_weather", arguments) + call_text("now", "{}")
    # What arrives together is told together, so it is to come bit by bit.
    request = thinker(emitted, fields={"delay_ms": 15})
    whole = chat(scripted, **request)
    assert whole.choices[0].finish_reason == "tool_calls"
    assert (whole.choices[0].message.content or "").strip() == "Let me see."
    told: list[Any] = [*(whole.choices[0].message.tool_calls or [])]
    assert [call.function.name for call in told] == ["get_weather", "now"]
    assert told[0].function.arguments == arguments
    deltas = [
        call
        for chunk in chunks(scripted, **request)
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
    ]
    assert [call.index for call in deltas] == sorted(call.index for call in deltas)
    opening = {call.index: call for call in deltas if call.id}
    assert [opening[index].function.name for index in (0, 1)] == ["get_weather", "now"]
    for index, call in enumerate(told):
        pieces = [one.function.arguments for one in deltas if one.index == index]
        assert "".join(pieces) == call.function.arguments
    assert sum(one.index == 0 for one in deltas) > 3
    only = chat(scripted, **request, parallel_tool_calls=False).choices[0]
    one_call: list[Any] = [*(only.message.tool_calls or [])]
    assert [call.function.name for call in one_call] == ["get_weather"]
    assert only.finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_cut_has_what_there_is_and_ends_with_length(
    scripted: openai.OpenAI, stream: bool
) -> None:
    whole = call_text("get_weather", '{"city": "Oslo"}')
    request = thinker(whole, max_tokens=whole.index("lo"))
    if stream:
        told = chunks(scripted, **request)
        assert told[-1].choices[0].finish_reason == "length"
        return
    choice = chat(scripted, **request).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.arguments == '{"city": "Os'


def test_a_failure_inside_a_call_is_raised_after_what_there_was(scripted: openai.OpenAI) -> None:
    whole = call_text("get_weather", '{"city": "Oslo"}')
    seen: list[str] = []

    def read() -> None:
        fields = {"fail_at": len(whole) - 14, "delay_ms": 5, "tokens_per_response": 1}
        request = {"temperature": 0, **thinker(whole, fields=fields)}
        for chunk in scripted.chat.completions.create(stream=True, **request):
            for call in chunk.choices[0].delta.tool_calls or []:
                seen.append(call.function.arguments)

    with pytest.raises(openai.APIError) as caught:
        read()
    assert not isinstance(caught.value, openai.APIStatusError)
    assert "".join(seen).startswith('{"city"')


def key_with(client: openai.OpenAI, **fields: Any) -> openai.OpenAI:
    """A client with a new key of its own."""
    body = {"label": "sdk", "policy_id": "pol_default", **fields}
    made = client.post("/keys", body=body, cast_to=dict[str, Any])
    return openai.OpenAI(base_url=client.base_url, api_key=made["secret"], max_retries=0)


def test_each_status_is_the_exception_that_callers_catch(client: openai.OpenAI) -> None:
    with key_with(client, allowed_models=["demo/embed"]) as narrow:
        with pytest.raises(openai.PermissionDeniedError) as denied:
            chat(narrow)
        assert denied.value.code == "policy_denied"
    with key_with(client, rpm_limit=1) as slow:
        chat(slow, max_tokens=1)
        with pytest.raises(openai.RateLimitError) as limited:
            chat(slow, max_tokens=1)
        assert limited.value.code == "rate_limited"
        assert limited.value.response.headers["retry-after"]
    with pytest.raises(openai.NotFoundError) as missing:
        chat(client, model="no/such")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as large:
        chat(client, messages=[{"role": "user", "content": "x" * 40_000_000}])
    assert large.value.status_code == 413
    assert large.value.code == "request_too_large"
