"""The upgrade: who gets in, by which key, and how the others are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings import RealtimeSettings
from tests.unit.wire.openai.realtime.client import SocketClient, connected, refused
from tests.wire.harness import KEY, STRANGERS_KEY, Bench, bench, call

pytestmark = pytest.mark.slow

WRONG = "op_live_0000_" + "0" * 32
KEY_PROTOCOL = f"openai-insecure-api-key.{KEY}"


@pytest.mark.parametrize("path", ["/v1/realtime", "/api/v1/realtime"])
async def test_a_session_opens_under_both_prefixes(service: Bench, path: str) -> None:
    async with connected(service.app, path=path):
        pass


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ({"key": None}, 401, "missing_api_key"),
        ({"key": WRONG}, 401, "invalid_api_key"),
        ({"key": None, "subprotocols": ["realtime"]}, 401, "missing_api_key"),
        (
            {"key": None, "subprotocols": [f"openai-insecure-api-key.{WRONG}"]},
            401,
            "invalid_api_key",
        ),
        ({"query": b""}, 400, "invalid_request"),
        ({"query": b"model="}, 400, "invalid_request"),
        ({"query": b"model=acme/nothing"}, 404, "model_not_found"),
        ({"query": b"model=acme/embed"}, 404, "model_not_found"),
        ({"query": b"model=acme/absent"}, 503, "model_unavailable"),
    ],
)
async def test_refusals_are_http_before_the_upgrade(
    service: Bench, options: dict[str, Any], status: int, reason: str
) -> None:
    got, headers, body = await refused(service.app, **options)
    assert got == status
    assert body["error"]["reason"] == reason
    assert headers[b"x-request-id"].decode() == body["error"]["request_id"]
    assert headers[b"content-type"] == b"application/json"
    assert (b"www-authenticate" in headers) == (status == 401)


async def test_a_refusal_under_the_platforms_prefix_is_in_its_words(service: Bench) -> None:
    _, _, body = await refused(service.app, path="/api/v1/realtime", key=None)
    assert body["error"]["type"] == "authentication_error"


async def test_the_key_may_be_a_subprotocol_and_never_comes_back(service: Bench) -> None:
    client = SocketClient(service.app, key=None, subprotocols=["realtime", KEY_PROTOCOL])
    accepted = await client.message()
    assert accepted["type"] == "websocket.accept"
    assert accepted["subprotocol"] == "realtime"
    assert KEY not in repr(accepted)
    await client.leave()


@pytest.mark.parametrize("offered", [[], [KEY_PROTOCOL], ["chat", KEY_PROTOCOL]])
async def test_no_subprotocol_is_chosen_that_was_not_offered(
    service: Bench, offered: list[str]
) -> None:
    client = SocketClient(service.app, subprotocols=offered)
    assert (await client.message())["subprotocol"] is None
    await client.leave()


async def test_the_upgrade_carries_the_request_id(service: Bench) -> None:
    client = SocketClient(service.app, headers=[(b"x-request-id", b"trace-7")])
    assert (b"x-request-id", b"trace-7") in (await client.message())["headers"]
    await client.leave()


@pytest.mark.parametrize(
    "options",
    [
        {"headers": [(b"openai-beta", b"realtime=v1")]},
        {"headers": [(b"openai-beta", b"assistants=v2, realtime=v1")]},
        {"subprotocols": ["realtime", KEY_PROTOCOL, "openai-beta.realtime-v1"]},
    ],
)
async def test_the_upgrade_may_ask_for_the_beta_dialect(
    service: Bench, options: dict[str, Any]
) -> None:
    client = SocketClient(service.app, **options)
    await client.message()
    session = (await client.event())["session"]
    assert session["modalities"] == ["text"]
    assert "output_modalities" not in session
    assert (await client.event())["type"] == "conversation.created"
    await client.leave()


async def test_otherwise_the_first_event_speaks_both_dialects(service: Bench) -> None:
    client = SocketClient(service.app)
    await client.message()
    session = (await client.event())["session"]
    assert session["modalities"] == session["output_modalities"] == ["text"]
    assert session["type"] == "realtime"
    assert session["model"] == "acme/chat"
    await client.leave()


async def test_more_sessions_than_there_are_places_are_503(tmp_path: Path) -> None:
    async with bench(tmp_path, realtime=RealtimeSettings(most_sessions=1)) as service:
        async with connected(service.app):
            status, headers, body = await refused(service.app)
            assert status == 503
            assert body["error"]["code"] == "overloaded"
            assert headers[b"retry-after"] == b"5"
        async with connected(service.app):
            pass


async def test_a_refusal_says_what_a_chat_would_be_told(service: Bench) -> None:
    body = {"model": "acme/embed", "messages": [{"role": "user", "content": "hi"}]}
    reply = await service.post("/v1/chat/completions", body)
    status, _, told = await refused(service.app, query=b"model=acme/embed")
    assert status == reply.status_code
    assert told["error"]["message"] == reply.json()["error"]["message"]


async def test_an_unknown_parameter_is_refused_before_the_upgrade(service: Bench) -> None:
    for query in (b"model=acme/chat&api-version=2025-04-01-preview", b"model=acme%2Fchat"):
        async with connected(service.app, query=query):
            pass
    status, _, told = await refused(service.app, query=b"model=acme/chat&call_id=rtc_1")
    assert status == 400
    assert told["error"]["param"] == "call_id"
    assert "there are api-version, client_version, deployment, model" in told["error"]["message"]


async def test_plain_http_is_told_to_upgrade(service: Bench) -> None:
    sent = await call(service.app, path="/v1/realtime", method="GET")
    assert sent[0]["status"] == 400
    assert b"WebSocket" in sent[1]["body"]


async def test_one_tenant_does_not_take_all_places(tmp_path: Path) -> None:
    settings = RealtimeSettings(most_sessions=3, most_tenant_sessions=1)
    async with bench(tmp_path, realtime=settings) as service:
        async with connected(service.app):
            status, headers, body = await refused(service.app)
            assert (status, headers[b"retry-after"]) == (429, b"5")
            assert "1 realtime sessions" in body["error"]["message"]
            async with connected(service.app, key=STRANGERS_KEY):
                pass
        async with connected(service.app):
            pass
