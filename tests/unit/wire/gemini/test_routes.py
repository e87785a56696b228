"""Gemini's routes: paths, keys, framing, pages."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from orchestrator.core.errors import UpstreamFailed
from orchestrator.core.request import EmbeddingRequest, GenerationRequest
from orchestrator.wire.gemini.replies import ListModelsResponse
from tests.wire.harness import KEY, Bench, answer

pytestmark = pytest.mark.slow

PREFIXES = ("/v1beta", "/api/v1beta", "/v1", "/api/v1")
CHAT = "/v1beta/models/acme/chat"
HI = {"text": "hi"}
HELLO = {"contents": [{"parts": [HI]}]}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("model", ["acme/chat", "gemma4:26b", "acme%2Fchat"])
async def test_the_last_colon_of_the_path_begins_the_method(
    service: Bench, prefix: str, model: str
) -> None:
    reply = await service.post(f"{prefix}/models/{model}:generateContent", HELLO)
    assert reply.status_code == 200
    assert reply.json()["candidates"][0]["content"]["parts"] == [{"text": "Hello there"}]
    assert reply.headers["x-op-model"] == "acme/chat"
    [asked] = service.backend.asked
    assert asked.model == model.replace("%2F", "/")


@pytest.mark.parametrize("query", ["alt=sse", "$alt=sse", "key=x&alt=sse"])
async def test_events_are_sent_where_they_are_asked_for(service: Bench, query: str) -> None:
    reply = await service.post(f"{CHAT}:streamGenerateContent?{query}", HELLO)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.text.startswith('data: {"candidates":')


@pytest.mark.parametrize("query", ["", "?alt=json"])
async def test_anybody_else_gets_one_json_array(service: Bench, query: str) -> None:
    reply = await service.post(f"{CHAT}:streamGenerateContent{query}", HELLO)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-accel-buffering"] == "no"
    texts = [chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in reply.json()]
    assert texts == ["Hello", " there", ""]


async def test_a_failure_in_mid_stream_ends_the_array_properly(service: Bench) -> None:
    service.backend.events = answer("Hello")[:3]
    service.backend.error = UpstreamFailed("The engine failed.")
    chunks = (await service.post(f"{CHAT}:streamGenerateContent", HELLO)).json()
    assert chunks[-1]["error"]["code"] == 502
    events = (await service.post(f"{CHAT}:streamGenerateContent?alt=sse", HELLO)).text
    assert json.loads(events.split("data: ")[-1])["error"]["status"] == "INTERNAL"


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_the_key_may_stand_in_the_address(service: Bench, prefix: str) -> None:
    path = f"{prefix}/models/acme/chat:generateContent"
    assert (await service.client.post(f"{path}?key={KEY}", json=HELLO)).status_code == 200
    reply = await service.client.post(f"{path}?key=nobody", json=HELLO)
    assert (reply.status_code, reply.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert "nobody" not in reply.text
    for elsewhere in ("/v1/chat/completions", "/v1/embeddings", "/v1/messages"):
        reply = await service.client.post(f"{elsewhere}?key={KEY}", json={})
        assert reply.status_code == 401
    listed = await service.client.get(f"/v1beta/models?key={KEY}&pageSize=1&alt=json")
    assert len(listed.json()["models"]) == 1


async def test_unknown_models_and_methods_are_told_in_googles_words(service: Bench) -> None:
    reply = await service.post("/v1beta/models/no/such:generateContent", HELLO)
    assert (reply.status_code, reply.json()["error"]["status"]) == (404, "NOT_FOUND")
    for headers, path in (({}, CHAT), ({"x-goog-api-key": KEY}, "/v1/models/acme/chat")):
        reply = await service.post(f"{path}:nothing", HELLO, headers=headers)
        assert (reply.status_code, reply.json()["error"]["status"]) == (404, "NOT_FOUND")
        assert "allow" not in reply.headers
    reply = await service.post(f"{CHAT}:generateContent", {"contents": "x"})
    assert (reply.status_code, reply.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


async def test_models_are_listed_in_pages(service: Bench) -> None:
    names: list[str] = []
    token = ""
    for _ in range(3):
        query = f"pageSize=2&pageToken={token}" if token else "page_size=2"
        page: dict[str, Any] = (await service.get(f"/v1beta/models?{query}")).json()
        assert msgspec.to_builtins(msgspec.convert(page, ListModelsResponse)) == page
        names += [model["name"] for model in page["models"]]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert names == [f"models/{entry['id']}" for entry in await openai_models(service)]
    reply = await service.get("/v1beta/models?pageSize=5000")
    assert (reply.status_code, reply.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


async def openai_models(service: Bench) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await service.get("/v1/models")).json()["data"]
    return listed


@pytest.mark.parametrize("header", ["x-goog-api-client", "x-goog-api-key"])
async def test_models_are_told_in_googles_words_where_its_client_asks(
    service: Bench, header: str
) -> None:
    listed = await service.get("/v1/models?pageSize=1", **{header: KEY})
    assert [model["name"] for model in listed.json()["models"]] == ["models/acme/chat"]
    one = await service.get("/api/v1/models/acme/chat", **{header: KEY})
    assert one.json() == listed.json()["models"][0]
    none = await service.get("/v1/models/no/such", **{header: KEY})
    assert none.json()["error"]["status"] == "NOT_FOUND"


async def test_a_model_says_what_it_can_do(service: Bench) -> None:
    chat = (await service.get("/v1beta/models/gemma4:26b")).json()
    assert (chat["name"], chat["inputTokenLimit"]) == ("models/gemma4:26b", 64)
    assert "countTokens" in chat["supportedGenerationMethods"]
    embed = (await service.get("/api/v1beta/models/acme/embed")).json()
    assert embed["supportedGenerationMethods"] == ["embedContent", "batchEmbedContents"]
    assert (await service.get("/v1beta/models/no/such")).status_code == 404


async def test_one_text_and_several_become_vectors(service: Bench) -> None:
    content = {"content": {"parts": [{"text": "a"}]}}
    one = await service.post("/v1beta/models/acme/embed:embedContent", content)
    assert one.json()["embedding"] == {"values": [1.0, -2.0]}
    body = {"requests": [content, content]}
    two = await service.post("/v1beta/models/acme/embed:batchEmbedContents", body)
    assert two.json()["embeddings"] == [{"values": [1.0, -2.0]}] * 2
    assert two.json()["usageMetadata"]["promptTokenCount"] == 6
    assert service.backend.asked[-1] == EmbeddingRequest("acme/embed", ("a", "a"))


async def test_a_chat_asks_the_same_of_the_engine_in_either_dialect(service: Bench) -> None:
    await service.post(
        "/v1/chat/completions",
        {
            "model": "acme/chat",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
            ],
            "seed": 7,
            "temperature": 0.5,
            "max_tokens": 3,
            "stop": "x",
        },
    )
    await service.post(
        f"{CHAT}:generateContent",
        {
            "system_instruction": {"parts": [{"text": "Be brief."}]},
            **HELLO,
            "generationConfig": {
                "seed": 7,
                "temperature": 0.5,
                "maxOutputTokens": 3,
                "stopSequences": ["x"],
            },
        },
    )
    chat, gemini = service.backend.asked
    assert isinstance(chat, GenerationRequest)
    assert chat == gemini


@pytest.mark.parametrize("prefix", ["/v1beta", "/api/v1beta"])
async def test_an_id_with_a_slash_needs_no_models_before_it(service: Bench, prefix: str) -> None:
    # As the AI SDK sends it.
    reply = await service.post(f"{prefix}/acme/chat:generateContent", HELLO)
    assert reply.json()["candidates"][0]["content"]["parts"] == [{"text": "Hello there"}]
    reply = await service.post(f"{prefix}/acme/chat:streamGenerateContent?alt=sse", HELLO)
    assert reply.text.startswith('data: {"candidates":')
    reply = await service.post(f"{prefix}/acme/embed:embedContent", {"content": {"parts": [HI]}})
    assert reply.json()["embedding"]["values"]
    for asked in service.backend.asked:
        assert asked.model in ("acme/chat", "acme/embed")
    reply = await service.post(f"{prefix}/no/such:generateContent", HELLO)
    assert (reply.status_code, reply.json()["error"]["status"]) == (404, "NOT_FOUND")


async def test_tools_that_run_at_google_are_left_out_and_named(service: Bench) -> None:
    tools = [{"google_search": {}}, {"functionDeclarations": {"name": "f"}}]
    reply = await service.post(f"{CHAT}:generateContent", {**HELLO, "tools": tools})
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-op-warning"] == "tools left out: googleSearch"


async def test_one_text_to_embed_needs_no_array(service: Bench) -> None:
    body = {"requests": {"content": {"parts": HI}}}
    reply = await service.post("/v1beta/models/acme/embed:batchEmbedContents", body)
    assert len(reply.json()["embeddings"]) == 1
