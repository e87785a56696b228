"""What holds for every route: order of checks, ids, limits, clients that leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from starlette.exceptions import HTTPException

from orchestrator.core.errors import ModelUnavailable
from orchestrator.http.connection import CLIENT_LEFT
from orchestrator.http.exchange import Exchange
from orchestrator.http.header_pairs import header_pairs
from orchestrator.settings import HostsSettings, ServerSettings
from tests.wire.harness import KEY, NARROW_KEY, Bench, answer, bench, call

CHAT = {"model": "acme/chat", "messages": [{"role": "user", "content": "hi"}]}
PATH = "/v1/chat/completions"


async def test_a_bad_key_is_told_before_a_byte_of_the_body_is_read(service: Bench) -> None:
    def receive() -> Any:
        raise AssertionError("the body was read")

    sent = await call(service.app, key="op_live_0000_" + "0" * 32, receive=receive)
    assert sent[0]["status"] == 401
    assert orjson.loads(sent[1]["body"])["error"]["reason"] == "invalid_api_key"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 5}', b"\xff\xfe"])
async def test_with_a_good_key_a_bad_body_is_400_and_without_one_401(
    service: Bench, body: bytes
) -> None:
    good = {"authorization": f"Bearer {KEY}"}
    assert (await service.client.post(PATH, content=body, headers=good)).status_code == 400
    reply = await service.client.post(PATH, content=body)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"x-api-key": KEY},
        {"x-goog-api-key": KEY},
        {"api-key": KEY},
        {"authorization": "Basic eDp5", "x-api-key": KEY},
        # A client that cannot do without a bearer sends a dummy.
        {"authorization": "Bearer dummy", "x-api-key": KEY},
        {"authorization": "Bearer sk-ant-none", "x-goog-api-key": "none", "api-key": KEY},
    ],
)
async def test_the_key_may_come_in_any_usual_header(
    service: Bench, headers: dict[str, str]
) -> None:
    assert (await service.client.get("/v1/models", headers=headers)).status_code == 200


async def test_of_two_keys_the_first_counts(service: Bench) -> None:
    unknown = KEY[:-1] + "0"
    assert unknown != KEY
    for given in (f"Bearer {unknown}", "Bearer dummy"):
        headers = {"authorization": given, "x-api-key": unknown, "api-key": KEY}
        reply = await service.client.get("/v1/models", headers=headers)
        assert reply.json()["error"]["reason"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x"}], "model": %b}'),
        ("/v1/completions", b'{"prompt": "x", "max_tokens": 8.0, "model": %b}'),
        ("/v1beta/models/acme/chat:generateContent", b'{"contents": {"parts": {"text": %b}}}'),
        (
            "/v1beta/models/acme/chat:generateContent",
            b'{"contents": {"parts": {"text": %b}}, "system_instruction": {"parts": []}}',
        ),
    ],
)
async def test_a_byte_order_mark_before_a_body_means_nothing(
    service: Bench, path: str, body: bytes
) -> None:
    content = b"\xef\xbb\xbf" + body % b'"acme/chat"'
    headers = {"authorization": f"Bearer {KEY}"}
    reply = await service.client.post(path, content=content, headers=headers)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic eDp5", KEY])
async def test_a_header_without_a_key_counts_as_none(service: Bench, header: str) -> None:
    reply = await service.client.get("/v1/models", headers={"authorization": header})
    assert reply.json()["error"]["reason"] == "missing_api_key"


@pytest.mark.parametrize(
    ("path", "query", "secret"),
    [
        ("/v1beta/models", b"key=abc", "abc"),
        ("/api/v1beta/models/x:generateContent", b"alt=sse&key=a%20c", "a c"),
        ("/v1beta/models", b"monkey=abc", None),
        ("/v1beta/models", b"key=", None),
        ("/v1beta2/models", b"key=abc", None),
        ("/v1/models", b"key=abc", None),
        ("/api/v1/keys", b"key=abc", None),
    ],
)
async def test_a_key_in_the_address_counts_on_googles_paths_only(
    path: str, query: bytes, secret: str | None
) -> None:
    async def nothing(*_: object) -> Any:
        return {}

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query,
        "headers": [],
    }
    exchange = Exchange(scope, nothing, nothing, ServerSettings(), HostsSettings())
    assert exchange.secret == secret
    scope["headers"] = [(b"authorization", b"Bearer first")]
    assert Exchange(scope, nothing, nothing, ServerSettings(), HostsSettings()).secret == "first"


async def test_every_reply_has_a_request_id_and_the_error_repeats_it(service: Bench) -> None:
    replies = [
        await service.get("/v1/models"),
        await service.client.get("/health"),
        await service.client.get("/openapi.json"),
        await service.get("/nowhere"),
        await service.client.get(PATH),
        await service.post(PATH, {}),
        await service.post(PATH, {**CHAT, "stream": True}),
    ]
    ids = [reply.headers.get_list("x-request-id") for reply in replies]
    assert all(len(one) == 1 and one[0].startswith("req_") for one in ids)
    assert len({one[0] for one in ids}) == len(ids)
    assert replies[3].json()["error"]["request_id"] == ids[3][0]
    assert replies[5].json()["error"]["request_id"] == ids[5][0]


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ("trace-1.B_2", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("a b", False),
        ("a\u00e9", False),
        ('"quoted"', False),
    ],
)
async def test_a_callers_request_id_is_taken_when_it_is_harmless(
    service: Bench, asked: str, taken: bool
) -> None:
    reply = await service.client.get("/health", headers={b"x-request-id": asked.encode()})
    assert (reply.headers["x-request-id"] == asked) == taken


async def test_a_callers_request_id_is_not_the_one_that_engines_are_stopped_by(
    service: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrator.requests")
    for path, body in ((PATH, CHAT), ("/v1/embeddings", {"model": "acme/embed", "input": "a"})):
        service.backend.ids.clear()
        for _ in range(2):
            reply = await service.post(path, body, headers={"x-request-id": "mine"})
            assert reply.headers["x-request-id"] == "mine"
        first, second = service.backend.ids
        assert first.startswith("mine-req_")
        assert second.startswith("mine-req_")
        assert first != second
        assert caplog.messages[-1].startswith(second)


async def test_what_is_not_there_is_404_and_a_wrong_method_405(service: Bench) -> None:
    for path in ("/", "/v1", "/v1/chat/completion", "/docs", "/redoc", "/v2/models"):
        reply = await service.get(path)
        assert reply.status_code == 404, path
        assert reply.json()["error"]["reason"] == "unknown_url"
    reply = await service.client.put(PATH)
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST, OPTIONS"
    assert reply.json()["code"] == "not_found"


async def test_an_announced_body_over_the_limit_is_refused_unread(service: Bench) -> None:
    reply = await service.post(PATH, {**CHAT, "user": "x" * 5000})
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"


async def test_an_unannounced_body_over_the_limit_is_refused_on_the_way(service: Bench) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1000
            yield b"x" * 1000

    reply = await service.client.post(
        PATH, content=body(), headers={"authorization": f"Bearer {KEY}"}
    )
    assert reply.status_code == 413
    assert read <= 6000
    assert "4096 bytes at most" in reply.json()["detail"]


async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"model": '
        await asyncio.Event().wait()

    async with bench(tmp_path, server=ServerSettings(body_timeout_s=0.05)) as service:
        reply = await service.client.post(
            PATH, content=body(), headers={"authorization": f"Bearer {KEY}"}
        )
    assert reply.status_code == 408
    assert reply.json()["error"]["code"] == "request_timeout"
    assert "0.05 s" in reply.json()["detail"]


async def test_a_client_that_leaves_while_sending_is_no_error(
    service: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    assert await call(service.app, receive=receive) == []
    assert f" {CLIENT_LEFT} " in caplog.messages[-1]


async def test_a_fault_of_ours_is_logged_and_kept_from_the_caller(
    service: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    service.backend.events = ()
    service.backend.error = KeyError("a secret of ours")
    reply = await service.post(PATH, CHAT)
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal_error"
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text
    assert "a secret of ours" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_engine(
    service: Bench, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    service.backend.hangs = True
    service.backend.events = answer("Hello")[:3]
    waiting = [{"type": "http.request", "body": orjson.dumps({**CHAT, "stream": stream})}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await service.backend.running.wait()
        return {"type": "http.disconnect"}

    sent = await asyncio.wait_for(call(service.app, receive=receive), 60)
    assert service.backend.closed.is_set()
    assert not any(message.get("more_body") is False for message in sent)
    assert f" {CLIENT_LEFT} " in caplog.messages[-1]


async def test_a_client_that_leaves_before_the_first_event_stops_the_engine(
    service: Bench,
) -> None:
    service.backend.hangs = True
    service.backend.events = ()
    waiting = [{"type": "http.request", "body": orjson.dumps(CHAT)}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await service.backend.running.wait()
        return {"type": "http.disconnect"}

    assert await asyncio.wait_for(call(service.app, receive=receive), 60) == []
    assert service.backend.closed.is_set()


async def test_a_client_that_leaves_with_its_whole_reply_interrupts_nothing(
    service: Bench,
) -> None:
    sent = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await sent.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.set()

    scope: dict[str, Any] = {"type": "http", "path": "/", "method": "POST", "headers": []}
    exchange = Exchange(scope, receive, send, ServerSettings(), HostsSettings())
    with exchange.while_connected() as connection:
        await exchange.reply(b"{}")
        await asyncio.sleep(0.01)
    assert not connection.left
    assert exchange.status == 200


async def test_a_client_that_leaves_as_we_are_cancelled_does_not_hide_the_cancellation(
    service: Bench,
) -> None:
    service.backend.hangs = True
    service.backend.events = answer("Hello")[:3]
    waiting = [{"type": "http.request", "body": orjson.dumps(CHAT)}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await service.backend.running.wait()
        task.cancel()
        return {"type": "http.disconnect"}

    task = asyncio.create_task(call(service.app, receive=receive))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.backend.closed.is_set()


async def test_a_cancellation_from_outside_is_passed_on(service: Bench) -> None:
    service.backend.hangs = True
    service.backend.events = answer("Hello")[:3]
    task = asyncio.create_task(call(service.app, body=orjson.dumps(CHAT)))
    await service.backend.running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.backend.closed.is_set()


async def test_a_fault_after_the_status_leaves_the_reply_cut_short(
    service: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the connection is gone")
        sent.append(message)

    await call(service.app, path="/health", method="GET", send=send)
    assert [message["status"] for message in sent] == [200]
    assert "the connection is gone" in caplog.text


async def test_routes_of_fastapi_that_fail_are_answered_in_our_words(service: Bench) -> None:
    @service.app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "a secret of ours")

    reply = await service.client.get("/teapot")
    assert (reply.status_code, reply.json()["code"]) == (500, "internal_error")
    assert "secret" not in reply.text


async def test_the_end_of_a_request_is_one_line_without_secrets(
    service: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await service.post(PATH, {**CHAT, "stream": True})
    lines = [one for one in caplog.records if one.name == "orchestrator.requests"]
    assert len(lines) == 1
    text = lines[0].getMessage()
    assert f"POST {PATH} 200 " in text
    assert "model=acme/chat prompt_tokens=9 completion_tokens=2" in text
    assert KEY not in caplog.text
    assert "hi" not in text.split()


async def test_a_callers_text_cannot_forge_a_line_of_the_log(
    service: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrator.requests")
    await service.post(PATH, {**CHAT, "model": "x\nreq_1 GET / 200 " + "y" * 230})
    text = caplog.messages[-1]
    assert "\n" not in text
    assert "model=x\\nreq_1\\x20GET" in text
    assert len(text) < 500


async def test_health_needs_no_key_and_counts_seconds(service: Bench) -> None:
    for path in ("/health", "/v1/health", "/api/v1/health"):
        reply = await service.client.get(path)
        assert reply.json() == {"status": "ok", "uptime_s": 0}
        assert (await service.client.head(path)).status_code == 200


async def test_profiles_differ_in_error_bodies_and_in_nothing_else(tmp_path: Path) -> None:
    hosts = HostsSettings(spec=("*.internal",), proxy=("*.workers.dev",))
    async with bench(tmp_path, hosts=hosts) as service:
        get = service.client.get
        spec = await get("/v1/models", headers={"host": "box.internal"})
        assert (spec.status_code, spec.json()["error"]) == (401, "unauthorized")
        buddy = await get("/v1/models", headers={"host": "x.workers.dev:443"})
        assert (buddy.status_code, buddy.json()["error"]["code"]) == (400, "missing_api_key")
        flat = await get("/v1/models", headers={"x-op-error-format": "flat"})
        assert flat.json()["error"] == "unauthorized"
        bound = await get("/v1/models", headers={"authorization": "Bearer ob_sk_" + "0" * 48})
        assert (bound.status_code, bound.json()["error"]["type"]) == (401, "authentication_error")
        platform = await get("/api/v1/models")
        assert platform.json()["error"]["type"] == "authentication_error"


async def test_the_description_names_every_route_and_loads_nothing(service: Bench) -> None:
    document = (await service.client.get("/openapi.json")).json()
    assert set(document["paths"]) >= {
        "/v1/chat/completions",
        "/api/v1/chat/completions",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{model}",
        "/health",
    }
    assert document["security"] == [{"virtual_key": []}]


async def test_a_stream_that_breaks_says_so_and_ends(service: Bench) -> None:
    service.backend.events = answer("Hel")[:3]
    for error, code in (
        (ModelUnavailable("The engine went away."), "model_unavailable"),
        (ValueError("a secret of ours"), "internal_error"),
    ):
        service.backend.error = error
        reply = await service.post(PATH, {**CHAT, "stream": True})
        frames = reply.text.split("\n\n")
        assert frames[-2:] == ["data: [DONE]", ""]
        chunk = orjson.loads(frames[-3].removeprefix("data: "))
        assert chunk["error"]["code"] == code
        assert chunk["error"]["request_id"] == reply.headers["x-request-id"]
        assert chunk["choices"][0]["finish_reason"] == "error"
        assert "secret" not in reply.text


async def test_models_are_found_by_every_spelling_of_their_ids(service: Bench) -> None:
    for path in ("acme/chat", "acme%2Fchat", "gemma4:26b", "gemma4%3A26b"):
        reply = await service.get(f"/v1/models/{path}")
        assert reply.json()["object"] == "model", path
    narrow = {"authorization": f"Bearer {NARROW_KEY}"}
    listed = (await service.client.get("/api/v1/models", headers=narrow)).json()
    assert [entry["id"] for entry in listed["data"]] == ["acme/embed"]
    hidden = await service.client.get("/v1/models/acme/chat", headers=narrow)
    assert hidden.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("body", "key", "status", "code"),
    [
        ({**CHAT, "model": "no/such"}, KEY, 404, "model_not_found"),
        ({**CHAT, "model": "acme/absent"}, KEY, 503, "model_unavailable"),
        (CHAT, NARROW_KEY, 403, "policy_denied"),
        ({**CHAT, "model": "acme/embed"}, KEY, 404, "model_not_found"),
    ],
)
async def test_what_a_model_cannot_be_asked_has_its_status_stream_or_not(
    service: Bench, body: dict[str, Any], key: str, status: int, code: str
) -> None:
    for stream in (False, True):
        reply: httpx2.Response = await service.client.post(
            PATH, json={**body, "stream": stream}, headers={"authorization": f"Bearer {key}"}
        )
        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert reply.headers["content-type"] == "application/json"


async def test_embeddings_come_as_numbers_or_packed(service: Bench) -> None:
    body = {"model": "acme/embed", "input": ["a", "b"]}
    reply = await service.post("/v1/embeddings", body)
    assert [one["embedding"] for one in reply.json()["data"]] == [[1.0, -2.0]] * 2
    assert reply.json()["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert reply.headers["x-op-route"] == "local"
    packed = await service.post("/v1/embeddings", {**body, "encoding_format": "base64"})
    assert packed.json()["data"][1]["embedding"] == "AACAPwAAAMA="


def test_of_a_header_what_does_not_fit_is_replaced_and_the_others_stay_as_they_are() -> None:
    assert header_pairs({}) == []
    assert header_pairs({"A-Limit": "", "b": "1 2"}) == [(b"a-limit", b""), (b"b", b"1 2")]
    assert header_pairs({"a": "x\r\ny", "b": "é"}) == [(b"a", b"x??y"), (b"b", b"?")]
