"""Anthropic's routes: paths, headers, framing, models."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from orchestrator.core.errors import UpstreamFailed
from orchestrator.core.request import GenerationRequest
from orchestrator.wire.anthropic.encoder import PINGED_EVENTS
from tests.wire.harness import KEY, Bench, answer, call

HELLO: dict[str, Any] = {
    "model": "acme/chat",
    "max_tokens": 3,
    "messages": [{"role": "user", "content": "hi"}],
}
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
async def test_messages_are_answered_under_both_prefixes(service: Bench, prefix: str) -> None:
    reply = await service.client.post(
        f"{prefix}/messages?beta=true", json=HELLO, headers={"x-api-key": KEY, **VERSION}
    )
    assert reply.status_code == 200
    assert reply.json()["content"] == [{"type": "text", "text": "Hello there"}]
    assert reply.headers["request-id"] == reply.headers["x-request-id"]
    reply = await service.post(f"{prefix}/messages/count_tokens", {**HELLO, "model": "no/such"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")


async def test_the_events_of_a_message_come_in_their_order(service: Bench) -> None:
    body = orjson.dumps({**HELLO, "stream": True})
    start, *writes = await call(service.app, path="/v1/messages", body=body)
    assert dict(start["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    events = b"".join(write["body"] for write in writes).decode().removesuffix("\n\n")
    assert [event.split("\n")[0] for event in events.split("\n\n")] == [
        "event: message_start",
        "event: content_block_start",
        "event: content_block_delta",
        "event: content_block_delta",
        "event: content_block_stop",
        "event: message_delta",
        "event: message_stop",
    ]


async def test_a_failure_in_mid_stream_is_an_event(service: Bench) -> None:
    service.backend.events = answer("Hello")[:3]
    service.backend.error = UpstreamFailed("The engine failed.")
    text = (await service.post("/v1/messages", {**HELLO, "stream": True})).text
    *_, stop, error, rest = text.split("\n\n")
    assert stop.startswith("event: content_block_stop")
    assert error.startswith('event: error\ndata: {"type":"error","error":{"type":"api_error"')
    assert rest == ""


def test_a_ping_is_an_event_of_the_dialects_own() -> None:
    assert PINGED_EVENTS.ping == b'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind", "code"),
    [
        (HELLO, {"x-api-key": "nobody"}, 401, "authentication_error", "invalid_api_key"),
        (HELLO, {}, 401, "authentication_error", "missing_api_key"),
        ({}, {"x-api-key": KEY}, 400, "invalid_request_error", "invalid_request"),
        (
            {**HELLO, "system": "x" * 5000},
            {"x-api-key": KEY},
            413,
            "request_too_large",
            "request_too_large",
        ),
    ],
)
async def test_refusals_are_told_in_anthropics_words(
    service: Bench, body: Any, headers: dict[str, str], status: int, kind: str, code: str
) -> None:
    reply = await service.client.post("/v1/messages", json=body, headers=headers)
    told = reply.json()
    assert (reply.status_code, told["type"], told["error"]["type"]) == (status, "error", kind)
    assert told["error"]["details"] == {"error_code": code}
    assert told["request_id"] == reply.headers["request-id"]


async def test_models_are_told_in_the_words_of_whoever_asks(service: Bench) -> None:
    listed = (await service.get("/v1/models", **VERSION)).json()
    ids = [model["id"] for model in (await service.get("/v1/models")).json()["data"]]
    assert [model["id"] for model in listed["data"]] == ids
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, ids[0], ids[-1])
    model = (await service.get("/api/v1/models/acme/chat", **VERSION)).json()
    assert model == listed["data"][0]
    assert (model["type"], model["created_at"]) == ("model", "1970-01-01T00:00:07Z")
    reply = await service.get("/v1/models/no/such", **VERSION)
    assert reply.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("query", "places", "has_more"),
    [
        ("limit=2", slice(0, 2), True),
        ("limit=2&after_id={1}", slice(2, 4), False),
        ("after_id={2}", slice(3, None), False),
        ("limit=1&before_id={2}", slice(1, 2), True),
        ("limit=9&before_id={2}", slice(0, 2), False),
        ("limit=9&before_id={0}", slice(0, 0), False),
    ],
)
async def test_models_are_listed_in_pages(
    service: Bench, query: str, places: slice, has_more: bool
) -> None:
    ids = [model["id"] for model in (await service.get("/v1/models")).json()["data"]]
    page = (await service.get(f"/v1/models?{query.format(*ids)}", **VERSION)).json()
    assert [model["id"] for model in page["data"]] == ids[places]
    assert page["has_more"] == has_more
    assert page["last_id"] == (ids[places][-1] if ids[places] else None)


async def test_a_page_after_no_model_is_refused(service: Bench) -> None:
    reply = await service.get("/v1/models?after_id=no/such", **VERSION)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_client_that_leaves_stops_the_engine(service: Bench) -> None:
    service.backend.events = answer("Hello")[:3]
    service.backend.hangs = True
    body = [{"type": "http.request", "body": orjson.dumps(HELLO), "more_body": False}]

    async def receive() -> Any:
        if body:
            return body.pop()
        await service.backend.running.wait()
        return {"type": "http.disconnect"}

    await asyncio.wait_for(call(service.app, path="/v1/messages", receive=receive), 60)
    assert service.backend.closed.is_set()


async def test_a_chat_asks_the_same_of_the_engine_in_either_dialect(service: Bench) -> None:
    sampling = {"seed": 7, "temperature": 0.5, "max_tokens": 3}
    messages = [{"role": "user", "content": "hi"}]
    system = {"role": "system", "content": "Be brief."}
    await service.post(
        "/v1/chat/completions",
        {"model": "acme/chat", "messages": [system, *messages], "stop": "x", **sampling},
    )
    await service.post(
        "/v1/messages",
        {**HELLO, "system": "Be brief.", "stop_sequences": ["x"], **sampling},
    )
    chat, anthropic = service.backend.asked
    assert isinstance(chat, GenerationRequest)
    # Messages take what room there is.
    assert replace(chat, clamps=True) == anthropic


async def test_tools_that_run_at_anthropic_are_left_out_and_named(service: Bench) -> None:
    tools = [
        {"type": "web_search_20250305", "name": "web_search"},
        {"name": "f", "input_schema": {"type": "object"}},
    ]
    reply = await service.post("/v1/messages", {**HELLO, "tools": tools})
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-op-warning"] == "tools left out: web_search_20250305"
