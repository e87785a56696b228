"""The official Gemini client for Python, unmodified, against the whole appliance."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from google import genai
from google.genai import errors, types

from tests.integration.limited import new_key
from tests.integration.scripted.repository import script
from tests.integration.serving import Serving

CHAT, EMBED = "operayde/instruct-13b", "operayde/embed-bge"
SCRIPTED, THINKER = "scripted/scripted", "scripted/thinker"
SYSTEM = "You are a helpful assistant."
HELLO = "What is the capital of France?"
GREEDY = types.GenerateContentConfig(system_instruction=SYSTEM, temperature=0)
WEATHER = types.FunctionDeclaration(
    name="get_weather",
    description="The weather",
    parameters=types.Schema(
        type=types.Type.OBJECT,
        properties={"city": types.Schema(type=types.Type.STRING, enum=["Oslo", "Bergen"])},
        additional_properties=False,
        required=["city"],
    ),
)


def connected(serving: Serving, key: str | None = None, path: str = "") -> genai.Client:
    """A client as seed 003 and Google's documents make it, at another address."""
    options = types.HttpOptions(base_url=f"{serving.url}{path}", timeout=60_000)
    return genai.Client(api_key=key or serving.key, http_options=options)


@pytest.fixture(scope="module")
def client(appliance: Serving) -> Iterator[genai.Client]:
    with connected(appliance) as made:
        yield made


@pytest.fixture(scope="module")
def scripted(scripted_appliance: Serving) -> Iterator[genai.Client]:
    with connected(scripted_appliance) as made:
        yield made


def test_content_says_the_same_as_a_chat(client: genai.Client, appliance: Serving) -> None:
    response = client.models.generate_content(model=CHAT, contents=HELLO, config=GREEDY)
    with openai.OpenAI(base_url=appliance.base_url, api_key=appliance.key) as chats:
        chat = chats.chat.completions.create(
            model=CHAT,
            messages=[
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": HELLO},
            ],
            temperature=0,
        )
    assert response.text == chat.choices[0].message.content
    assert response.candidates is not None
    assert response.candidates[0].finish_reason == types.FinishReason.STOP
    usage, told = response.usage_metadata, chat.usage
    assert usage is not None
    assert told is not None
    assert usage.prompt_token_count == told.prompt_tokens
    assert usage.candidates_token_count == told.completion_tokens
    assert usage.total_token_count == told.total_tokens
    assert response.model_version == CHAT
    assert response.response_id


def test_a_stream_says_the_same_as_the_whole(client: genai.Client) -> None:
    whole = client.models.generate_content(model=CHAT, contents=HELLO, config=GREEDY)
    chunks = list(client.models.generate_content_stream(model=CHAT, contents=HELLO, config=GREEDY))
    assert "".join(chunk.text or "" for chunk in chunks) == whole.text
    assert all(chunk.usage_metadata for chunk in chunks)
    assert chunks[-1].usage_metadata is not None
    assert whole.usage_metadata is not None
    assert chunks[-1].usage_metadata.total_token_count == whole.usage_metadata.total_token_count
    assert chunks[-1].candidates is not None
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP


def test_a_stream_comes_in_pieces(client: genai.Client) -> None:
    # Tokens that wait together leave together: on a busy machine a short answer is one piece.
    config = types.GenerateContentConfig(temperature=1, seed=7, max_output_tokens=200)
    story = "Tell me a long story."
    chunks = list(client.models.generate_content_stream(model=CHAT, contents=story, config=config))
    assert len(chunks) > 2


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession")
async def test_the_asynchronous_client_says_the_same(appliance: Serving) -> None:
    client = connected(appliance)
    try:
        whole = await client.aio.models.generate_content(model=CHAT, contents=HELLO, config=GREEDY)
        text = ""
        async for chunk in await client.aio.models.generate_content_stream(
            model=CHAT, contents=HELLO, config=GREEDY
        ):
            text += chunk.text or ""
    finally:
        await client.aio.aclose()
        client.close()
    assert text == whole.text


def test_a_stream_without_events_is_one_json_array(appliance: Serving) -> None:
    reply = httpx2.post(
        f"{appliance.url}/api/v1beta/models/{CHAT}:streamGenerateContent?key={appliance.key}",
        json={"contents": [{"parts": [{"text": HELLO}]}]},
    )
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()[-1]["candidates"][0]["finishReason"] == "STOP"


def test_a_conversation_goes_on(client: genai.Client) -> None:
    chat = client.chats.create(model=CHAT, config=GREEDY)
    first = chat.send_message("What is the capital of France?")
    second = chat.send_message("And of Norway?")
    assert first.text
    assert second.usage_metadata is not None
    assert first.usage_metadata is not None
    assert (second.usage_metadata.prompt_token_count or 0) > (
        first.usage_metadata.prompt_token_count or 0
    )
    assert [content.role for content in chat.get_history()] == ["user", "model"] * 2


def test_candidates_seeds_limits_and_stops_are_kept(client: genai.Client) -> None:
    def texts(**config: Any) -> list[str]:
        response = client.models.generate_content(
            model=CHAT, contents=HELLO, config=types.GenerateContentConfig(**config)
        )
        return [
            "".join(part.text or "" for part in candidate.content.parts)
            for candidate in response.candidates or []
            if candidate.content and candidate.content.parts
        ]

    three = texts(candidate_count=3, seed=7, temperature=1.5)
    assert len(three) == 3
    assert texts(candidate_count=3, seed=7, temperature=1.5) == three
    [whole] = texts(temperature=0)
    word = whole.split()[1]
    assert texts(temperature=0, stop_sequences=[word]) == [whole[: whole.index(word)]]
    cut = client.models.generate_content(
        model=CHAT,
        contents=HELLO,
        config=types.GenerateContentConfig(max_output_tokens=2, temperature=0, top_k=40),
    )
    assert cut.candidates is not None
    assert cut.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS


def test_tokens_are_counted_as_they_are_charged(client: genai.Client) -> None:
    counted = client.models.count_tokens(model=CHAT, contents=HELLO)
    response = client.models.generate_content(model=CHAT, contents=HELLO)
    assert response.usage_metadata is not None
    assert counted.total_tokens == response.usage_metadata.prompt_token_count


def test_a_function_is_called_and_its_result_told(client: genai.Client) -> None:
    config = types.GenerateContentConfig(
        temperature=0, tools=[types.Tool(function_declarations=[WEATHER])]
    )
    question = types.Content(role="user", parts=[types.Part(text="What is the weather in Oslo?")])
    response = client.models.generate_content(model=CHAT, contents=question, config=config)
    [call] = response.function_calls or []
    assert (call.name, call.args) == ("get_weather", {"city": "Oslo"})
    streamed = [
        call
        for chunk in client.models.generate_content_stream(
            model=CHAT, contents=question, config=config
        )
        for call in chunk.function_calls or []
    ]
    assert [(one.name, one.args) for one in streamed] == [(call.name, call.args)]
    assert response.candidates is not None
    answer = types.Part(
        function_response=types.FunctionResponse(
            id=call.id, name=call.name, response={"temperature": 12}
        )
    )
    said = response.candidates[0].content
    assert said is not None
    told = client.models.generate_content(
        model=CHAT,
        contents=[question, said, types.Content(role="user", parts=[answer])],
        config=config,
    )
    assert told.text


def test_a_function_of_pythons_is_called_by_the_client(client: genai.Client) -> None:
    asked: list[str] = []

    def get_weather(city: str) -> str:
        """The weather"""
        asked.append(city)
        return "rain"

    response = client.chats.create(
        model=CHAT, config=types.GenerateContentConfig(temperature=0, tools=[get_weather])
    ).send_message("What is the weather in Oslo?")
    assert asked[:1] == ["Oslo"]
    assert response.candidates


def test_a_function_must_be_called_where_that_is_asked_for(client: genai.Client) -> None:
    calling = types.FunctionCallingConfig(
        mode=types.FunctionCallingConfigMode.ANY, allowed_function_names=["get_weather"]
    )
    response = client.models.generate_content(
        model=CHAT,
        contents="Hello!",
        config=types.GenerateContentConfig(
            temperature=0,
            max_output_tokens=400,
            tools=[types.Tool(function_declarations=[WEATHER])],
            tool_config=types.ToolConfig(function_calling_config=calling),
        ),
    )
    assert [call.name for call in response.function_calls or []] == ["get_weather"]


def test_an_answer_has_the_shape_that_is_asked_for(client: genai.Client) -> None:
    schema = types.Schema(
        type=types.Type.OBJECT,
        properties={
            "kind": types.Schema(type=types.Type.STRING, enum=["city", "river"]),
            "big": types.Schema(type=types.Type.BOOLEAN),
        },
        required=["kind", "big"],
        property_ordering=["big", "kind"],
    )
    response = client.models.generate_content(
        model=CHAT,
        contents=HELLO,
        config=types.GenerateContentConfig(
            response_mime_type="application/json",
            response_schema=schema,
            temperature=0,
            max_output_tokens=200,
        ),
    )
    assert response.text is not None
    answer = json.loads(response.text)
    assert answer["kind"] in ("city", "river")
    assert isinstance(answer["big"], bool)


def test_an_answer_is_one_of_the_words_that_are_given(client: genai.Client) -> None:
    config = types.GenerateContentConfig(
        response_mime_type="text/x.enum",
        response_schema={"type": "STRING", "enum": ["river", "city of lights"]},
    )
    response = client.models.generate_content(model=CHAT, contents=HELLO, config=config)
    assert response.text in ("river", "city of lights")


def test_log_probabilities_are_told(client: genai.Client) -> None:
    response = client.models.generate_content(
        model=CHAT,
        contents=HELLO,
        config=types.GenerateContentConfig(
            temperature=0, response_logprobs=True, logprobs=2, max_output_tokens=4
        ),
    )
    assert response.candidates is not None
    result = response.candidates[0].logprobs_result
    assert result is not None
    assert result.chosen_candidates is not None
    assert result.top_candidates is not None
    assert len(result.chosen_candidates) == len(result.top_candidates) == 4
    assert "".join(one.token or "" for one in result.chosen_candidates) == response.text
    assert all(len(one.candidates or []) == 2 for one in result.top_candidates)


def test_thoughts_are_parts_where_they_are_asked_for(scripted: genai.Client) -> None:
    contents = script(emit="<think>\nhm, é\n</think>\n\nYes.")

    def parts(**thinking: Any) -> tuple[list[tuple[bool, str]], Any]:
        config = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(**thinking))
        response = scripted.models.generate_content(model=THINKER, contents=contents, config=config)
        assert response.parts is not None
        found = [(bool(part.thought), (part.text or "").strip()) for part in response.parts]
        return found, response.usage_metadata

    shown, usage = parts(include_thoughts=True)
    assert shown == [(True, "hm, é"), (False, "Yes.")]
    assert usage.thoughts_token_count > 0
    hidden, same = parts(thinking_budget=-1)
    assert hidden == shown[1:]
    assert same == usage


def test_embeddings_are_the_same_as_openais(client: genai.Client, appliance: Serving) -> None:
    texts = ["Operayde keeps your data on-premise.", "Virtual keys control API access."]
    response = client.models.embed_content(
        model=EMBED,
        contents=texts,
        config=types.EmbedContentConfig(task_type="RETRIEVAL_QUERY"),
    )
    with openai.OpenAI(base_url=appliance.base_url, api_key=appliance.key) as chats:
        other = chats.embeddings.create(model=EMBED, input=texts, encoding_format="float")
    assert response.embeddings is not None
    for ours, theirs in zip(response.embeddings, other.data, strict=True):
        assert ours.values == pytest.approx(theirs.embedding, abs=1e-6)
        assert math.isclose(math.hypot(*theirs.embedding), 1, abs_tol=1e-3)
    with pytest.raises(errors.ClientError) as caught:
        client.models.embed_content(
            model=EMBED, contents="x", config=types.EmbedContentConfig(output_dimensionality=7)
        )
    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")


def test_models_are_listed_in_pages_and_found(client: genai.Client) -> None:
    names = [model.name for model in client.models.list(config={"page_size": 1})]
    assert {f"models/{name}" for name in ("demo/chat", "demo/embed", CHAT, EMBED)} <= set(names)
    assert len(set(names)) == len(names)
    model = client.models.get(model=CHAT)
    assert (model.name, model.input_token_limit) == (f"models/{CHAT}", 2048)
    assert "generateContent" in (model.supported_actions or [])


@pytest.mark.parametrize("path", ["", "/api"])
@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_both_prefixes_and_versions_serve_the_same(
    appliance: Serving, path: str, version: str
) -> None:
    options = types.HttpOptions(base_url=f"{appliance.url}{path}", api_version=version)
    with genai.Client(api_key=appliance.key, http_options=options) as client:
        assert client.models.generate_content(model=CHAT, contents=HELLO).text
        assert client.models.get(model=CHAT).name == f"models/{CHAT}"


@pytest.mark.parametrize(
    ("model", "config", "code", "status"),
    [
        ("no/such", {}, 404, "NOT_FOUND"),
        (EMBED, {}, 404, "NOT_FOUND"),
        (CHAT, {"temperature": 3}, 400, "INVALID_ARGUMENT"),
        (CHAT, {"max_output_tokens": 100_000}, 400, "INVALID_ARGUMENT"),
        (CHAT, {"cached_content": "cachedContents/x"}, 400, "INVALID_ARGUMENT"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_client_errors(
    client: genai.Client, model: str, config: Any, code: int, status: str, stream: bool
) -> None:
    call = client.models.generate_content_stream if stream else client.models.generate_content
    with pytest.raises(errors.ClientError) as caught:
        list(call(model=model, contents=HELLO, config=config))
    assert (caught.value.code, caught.value.status) == (code, status)


def test_a_wrong_key_is_a_client_error(appliance: Serving) -> None:
    with connected(appliance, key="nobody") as client, pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model=CHAT, contents=HELLO)
    assert (caught.value.code, caught.value.status) == (401, "UNAUTHENTICATED")
    assert caught.value.message == "Invalid API key provided."


def test_limits_and_scopes_are_client_errors(scripted_appliance: Serving) -> None:
    limited, _ = new_key(scripted_appliance, rpm_limit=1)
    narrow, _ = new_key(scripted_appliance, allowed_models=["scripted/other"])
    contents = script(emit="a")
    with connected(scripted_appliance, limited) as client:
        assert client.models.generate_content(model=SCRIPTED, contents=contents).text == "a"
        with pytest.raises(errors.ClientError) as too_many:
            client.models.generate_content(model=SCRIPTED, contents=contents)
    assert (too_many.value.code, too_many.value.status) == (429, "RESOURCE_EXHAUSTED")
    with connected(scripted_appliance, narrow) as client, pytest.raises(errors.ClientError) as no:
        client.models.generate_content(model=SCRIPTED, contents=contents)
    assert (no.value.code, no.value.status) == (403, "PERMISSION_DENIED")


def test_a_failure_before_the_first_token_is_a_server_error(scripted: genai.Client) -> None:
    with pytest.raises(errors.ServerError) as caught:
        scripted.models.generate_content(model=SCRIPTED, contents=script(emit="abc", fail_at=0))
    assert caught.value.code == 502


def test_a_failure_in_mid_stream_is_raised_after_the_text_so_far(scripted: genai.Client) -> None:
    seen: list[str] = []

    def read() -> None:
        contents = script(emit="abcdef", fail_at=3, delay_ms=20)
        for chunk in scripted.models.generate_content_stream(model=SCRIPTED, contents=contents):
            seen.append(chunk.text or "")

    with pytest.raises(errors.ServerError) as caught:
        read()
    assert "".join(seen) == "abc"
    assert caught.value.code == 502
    assert "engine.cpp" not in str(caught.value.details)
