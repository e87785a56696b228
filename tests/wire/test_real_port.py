"""The dialects behind the real server, byte by byte: paths, HTTP/1.0, pages of other origins."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
import pytest
import pytest_asyncio

from orchestrator.settings import ServerSettings
from tests.unit.serve.served import Served, serving
from tests.wire.harness import KEY, Bench, bench

PAGE = "https://chat.test"
SETTINGS = ServerSettings(max_body_bytes=100_000, cors_origins=(PAGE,), ping_after_s=0.2)
CHAT = {"model": "acme/chat", "messages": [{"role": "user", "content": "hi"}]}
CONTENTS = {"contents": [{"parts": [{"text": "hi"}]}]}


@dataclass(frozen=True)
class Port:
    """The application and the port that it is served on."""

    served: Served
    service: Bench

    async def ask(
        self,
        method: str,
        path: str,
        *headers: str,
        body: bytes = b"",
        version: str = "1.1",
        key: str = KEY,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body, as they came, of a request that ends its connection."""
        lines = [
            f"{method} {path} HTTP/{version}",
            "Host: x",
            f"Authorization: Bearer {key}",
            "Connection: close",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        head = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
        reply = await self.served.ask(head + body)
        told, _, rest = reply.partition(b"\r\n\r\n")
        first, *others = told.decode().split("\r\n")
        named = dict(line.lower().split(": ", 1) for line in others)
        return int(first.split()[1]), named, rest


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def port(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Port]:
    async with (
        bench(tmp_path_factory.mktemp("port"), server=SETTINGS) as service,
        serving(service.app, SETTINGS) as served,
    ):
        yield Port(served, service)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("//v1/chat/completions", CHAT),
        ("/v1//chat/completions", CHAT),
        ("/v1/chat/completions/", CHAT),
        ("///api//v1/chat///completions//", CHAT),
        ("/v1/messages/?beta=true", {**CHAT, "max_tokens": 5}),
        ("//v1beta/models/acme/chat:generateContent", CONTENTS),
        ("/v1beta//models/acme%2Fchat:generateContent", CONTENTS),
        ("/v1beta//acme/chat:generateContent", CONTENTS),
        ("/v1beta/models/acme/chat:generateContent/", CONTENTS),
        ("/v1/embeddings/", {"model": "acme/embed", "input": "hi"}),
        ("http://x//v1//embeddings/", {"model": "acme/embed", "input": "hi"}),
    ],
)
async def test_a_path_is_served_as_it_is_meant(
    port: Port, path: str, body: dict[str, object]
) -> None:
    status, _, told = await port.ask("POST", path, body=orjson.dumps(body))
    assert status == 200, told


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/acme/chat",
        "/v1/models/acme%2Fchat",
        "/v1/models/acme%2fch%61t",
        "/v1//models/acme/chat/",
        "/v1/models/acme//chat",
    ],
)
async def test_ids_keep_their_slashes(port: Port, path: str) -> None:
    status, _, told = await port.ask("GET", path)
    assert status == 200
    assert orjson.loads(told)["id"] == "acme/chat"


async def test_a_list_with_a_slash_behind_is_the_list(port: Port) -> None:
    status, _, told = await port.ask("GET", "/v1/models/")
    assert status == 200
    assert orjson.loads(told)["object"] == "list"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "/v1/",
        "//v1//nothing/",
        "/%2Fv1/models",
        "/v1%2F/x",
        "/v1%2Fmodels",
        "/v1%2fmodels",
        "/api%2Fv1/models",
        "/v1%252Fmodels",
        "/v1/models%2Facme/chat",
        "/v1/models/acme%252Fchat",
        "/v1/responses/resp_1%2Finput_items",
    ],
)
async def test_what_is_not_there_is_not_found_however_it_is_written(port: Port, path: str) -> None:
    status, _, _ = await port.ask("GET", path)
    assert status == 404


async def test_no_method_has_a_path_with_an_escaped_slash(port: Port) -> None:
    for path in ("/v1%2Fchat/completions", "/v1/chat%2Fcompletions"):
        status, _, _ = await port.ask("POST", path, body=orjson.dumps(CHAT))
        assert status == 404, path


async def test_no_websocket_has_a_path_with_an_escaped_slash(port: Port) -> None:
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    asked = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key)
    for path, expected in (("/v1%2Frealtime", 404), ("/v1/re%61ltime", 400)):
        status, _, told = await port.ask("GET", path, *asked)
        # There is one at the other, which wants a model.
        assert status == expected, told


async def test_a_websocket_of_another_version_is_told_of_the_one_there_is(port: Port) -> None:
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    asked = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 12", key)
    status, headers, told = await port.ask("GET", "/v1/realtime?model=acme/chat", *asked)
    assert (status, headers["sec-websocket-version"], headers["upgrade"]) == (
        426,
        "13",
        "websocket",
    )
    assert headers["x-request-id"].startswith("req_")
    assert orjson.loads(told)["error"]["param"] == "Sec-WebSocket-Version"


async def test_the_words_of_an_error_do_not_depend_on_slashes(port: Port) -> None:
    for path in ("/v1/messages", "//v1//messages/"):
        _, _, told = await port.ask("POST", path, body=b"{")
        assert orjson.loads(told)["type"] == "error", path


async def test_the_log_has_one_name_for_a_path(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        await port.ask("POST", "//v1///chat/completions/", body=orjson.dumps(CHAT))
    assert "//v1" not in caplog.text
    assert "/v1/chat/completions" in caplog.text


async def test_a_stream_for_http_1_0_is_its_events_and_nothing_else(port: Port) -> None:
    body = orjson.dumps({**CHAT, "stream": True})
    status, headers, told = await port.ask("POST", "/v1/chat/completions", body=body, version="1.0")
    assert status == 200
    assert "transfer-encoding" not in headers
    assert headers["connection"] == "close"
    assert told.startswith(b"data: {")
    assert told.endswith(b"data: [DONE]\n\n")
    assert all(line == b"" or line.startswith(b"data: ") for line in told.split(b"\n"))


async def test_a_compressed_body_is_read_as_it_arrives(port: Port) -> None:
    body = gzip.compress(orjson.dumps({**CHAT, "user": "x" * 90_000}))
    path, coded = "/v1/chat/completions", "Content-Encoding: gzip"
    status, _, told = await port.ask("POST", path, coded, body=body)
    assert status == 200, told
    body = gzip.compress(orjson.dumps({**CHAT, "user": "x" * 110_000}))
    status, _, told = await port.ask("POST", path, coded, body=body)
    assert status == 413, told
    expects = "Expect: 100-continue"
    status, headers, _ = await port.ask("POST", path, "Content-Encoding: br", expects)
    # At once, without a word that asks for the body.
    assert status == 415
    assert headers["accept-encoding"] == "gzip, deflate"


async def test_a_page_may_read_a_stream_and_every_error(port: Port) -> None:
    origin = f"Origin: {PAGE}"
    body = orjson.dumps({**CHAT, "stream": True})
    replies = [
        await port.ask("POST", "/v1/chat/completions", origin, body=body),
        await port.ask("POST", "/v1/chat/completions", origin, body=b"{"),
        await port.ask("POST", "/v1/chat/completions", origin, body=b"{}", key="none"),
        await port.ask("POST", "/v1/chat/completions", origin, body=b" " * 100_001),
        # What the server refuses before there is a request.
        await port.ask("GET", "/v1/models", origin, "Transfer-Encoding: gzip"),
        await port.ask("GET", "/v1/models", origin, *[f"X-{n}: y" for n in range(200)]),
    ]
    assert [status for status, _, _ in replies] == [200, 400, 401, 413, 400, 431]
    for status, headers, _ in replies:
        assert headers["access-control-allow-origin"] == PAGE, status


async def test_a_stream_that_opens_in_silence_may_be_read_by_a_page(port: Port) -> None:
    backend = port.service.backend
    backend.slow_s = 0.5
    try:
        body = orjson.dumps({**CHAT, "stream": True})
        origin = f"Origin: {PAGE}"
        status, headers, told = await port.ask("POST", "/v1/chat/completions", origin, body=body)
    finally:
        backend.slow_s = 0.0
    assert status == 200
    assert b": ping" in told
    assert headers["access-control-allow-origin"] == PAGE


async def test_a_target_that_is_another_server_allows_nothing(port: Port) -> None:
    status, headers, _ = await port.ask("CONNECT", "elsewhere.test:443")
    assert status == 405
    assert headers["allow"] == ""


async def test_options_about_the_server_has_a_reply(port: Port) -> None:
    status, headers, _ = await port.ask("OPTIONS", "*")
    assert status == 204
    assert headers["allow"].endswith("options")
