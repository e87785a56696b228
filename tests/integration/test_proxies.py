"""Callers behind the shipped proxies, and beside them: whose reply is whose, and whose address."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import secrets
import socket
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.integration.limited import MODEL, bearer
from tests.integration.scripted.repository import ScriptedRepository, script
from tests.integration.serving import Serving, running
from tests.programs import lacking, program
from tests.proxies import NAMES, running_proxy
from tests.unit.serve.odd_requests import BROKEN_CHUNKS, OFFERS, REFUSED

pytestmark = pytest.mark.slow

PROXY = "127.0.0.1"
"""Where the proxies connect from, and the one address that is trusted."""
CALLER = "127.0.0.9"
ELSEWHERE = "192.0.2.7"
CALLERS = 8
CALLS = 25
CHAT = "/v1/chat/completions"
QUIET_S = 5.0
"""How long a connection may stay silent until nothing more is expected of it."""
HANDSHAKE = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
FORGED = {
    "custom": {"X-Forwarded-For": ELSEWHERE},
    "many": {"X-Forwarded-For": f"{ELSEWHERE}, {PROXY}", "X-Real-IP": ELSEWHERE},
    "standard": {"Forwarded": f"for={ELSEWHERE}"},
    "both": {"X-Forwarded-For": ELSEWHERE, "Forwarded": f'for="{ELSEWHERE}:80";proto=https'},
    "open quote": {"Forwarded": f'for={ELSEWHERE};x="', "X-Forwarded-For": '"'},
    "as hops": {"Connection": "X-Forwarded-For, Forwarded", "X-Forwarded-For": ELSEWHERE},
}


@pytest.fixture(scope="module")
def behind(
    scripted_repository: ScriptedRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """An appliance that trusts `PROXY`."""
    values = {**scripted_repository.settings, "SERVER__TRUSTED_PROXIES": json.dumps([PROXY])}
    yield from running(Serving(tmp_path_factory.mktemp("behind"), values))


@pytest.fixture(scope="module", params=NAMES)
def proxy(
    request: pytest.FixtureRequest, behind: Serving, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of each proxy in front of `behind`."""
    folder = tmp_path_factory.mktemp(request.param)
    with running_proxy(request.param, folder, behind.port) as port:
        yield port


def call(
    connection: http.client.HTTPConnection,
    path: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    method: str = "POST",
    chunked: bool = False,
) -> tuple[int, dict[str, Any]]:
    """Status and body of one reply."""
    raw = json.dumps(body).encode()
    given: Any = iter([raw[:7], raw[7:]]) if chunked else raw
    connection.request(method, path, given, dict(headers), encode_chunked=chunked)
    reply = connection.getresponse()
    read: dict[str, Any] = json.loads(reply.read())
    return reply.status, read


@contextmanager
def connected(port: int, peer: str = CALLER) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(PROXY, port, timeout=60, source_address=(peer, 0))
    try:
        yield connection
    finally:
        connection.close()


def once(
    port: int,
    path: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    method: str = "POST",
    peer: str = CALLER,
) -> tuple[int, dict[str, Any]]:
    """The same on a connection of its own."""
    with connected(port, peer) as connection:
        return call(connection, path, body, headers, method=method)


def unknown_model(token: str) -> dict[str, Any]:
    return {"model": f"unknown/{token}", "messages": [{"role": "user", "content": "hi"}]}


def offers() -> list[dict[str, str]]:
    """Headers that ask for an upgrade, or for none."""
    asked = [dict(line.split(": ") for line in lines) for lines in OFFERS.values()]
    return [{}, *asked, {**asked[1], **HANDSHAKE}]


def passed_offers(port: int, key: str) -> list[dict[str, str]]:
    """Those that a proxy passes on: HAProxy from 2.8 on refuses half a WebSocket handshake."""
    found = []
    for offer in offers():
        is_half = "websocket" in offer.get("Upgrade", "") and "Sec-WebSocket-Key" not in offer
        with connected(port) as connection:
            body = json.dumps(unknown_model("offer"))
            headers = {**bearer(key), "Content-Type": "application/json", **offer}
            connection.request("POST", CHAT, body, headers)
            if not (is_half and connection.getresponse().status == 400):
                found.append(offer)
    return found


def caller(port: int, key: str, choices: list[dict[str, str]], seed: int) -> list[str]:
    """What was wrong with the replies to one caller, of whom each call has a token of its own."""
    chance, wrong = random.Random(seed), []
    with connected(port) as connection:
        for _ in range(CALLS):
            token = secrets.token_hex(8)
            chunked = chance.random() < 0.3
            headers = {**bearer(key), "Content-Type": "application/json", **chance.choice(choices)}
            if chunked:
                headers["Transfer-Encoding"] = "chunked"
            body = unknown_model(token)
            status, reply = call(connection, CHAT, body, headers, chunked=chunked)
            if status != 404 or token not in reply["error"]["message"]:
                wrong.append(f"{headers} got {status} {reply}")
    return wrong


def callers(port: int, key: str) -> list[str]:
    """What was wrong with the replies to all of them, who call at the same time."""
    choices = passed_offers(port, key)
    with ThreadPoolExecutor(CALLERS) as pool:
        found = pool.map(lambda seed: caller(port, key, choices, seed), range(CALLERS))
        return [one for wrong in found for one in wrong]


def test_each_caller_behind_a_proxy_has_its_own_replies(behind: Serving, proxy: int) -> None:
    assert callers(proxy, behind.key) == []


@pytest.mark.parametrize(
    "path",
    ["/metrics", "//metrics", "/metrics/", "/%6Detrics", "//%6detrics//triton", "/metrics/triton"],
)
def test_a_proxy_hides_metrics_however_their_path_is_written(
    behind: Serving, proxy: int, path: str
) -> None:
    replies = {}
    for port in (behind.port, proxy):
        with connected(port) as connection:
            connection.request("GET", path, headers=bearer(behind.key))
            reply = connection.getresponse()
            replies[port] = reply.status, reply.getheader("x-request-id")
            reply.read()
    assert replies[behind.port][0] == 200
    assert replies[proxy] == (404, None)


def test_each_caller_has_its_own_replies(behind: Serving) -> None:
    assert callers(behind.port, behind.key) == []


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_curl_that_offers_http2_is_answered(behind: Serving, method: str, tmp_path: Path) -> None:
    curl = program("curl")
    if b"HTTP2" not in subprocess.check_output([curl, "--version"]):
        lacking("the curl of this machine knows no HTTP/2")
    tokens = [secrets.token_hex(8) for _ in range(3)]
    arguments: list[str] = []
    for token in tokens:
        body = json.dumps(unknown_model(token))
        arguments += ["--next"] if arguments else []
        arguments += ["--silent", "--http2", "-H", f"Authorization: Bearer {behind.key}"]
        arguments += ["-H", "Content-Type: application/json", "-X", method, "-d", body]
        arguments += [f"{behind.base_url}/chat/completions", "-o", str(tmp_path / token)]
    subprocess.run([curl, *arguments], check=True, timeout=60)
    for token in tokens:
        reply = json.loads((tmp_path / token).read_bytes())
        if method == "POST":
            assert token in reply["error"]["message"]
        else:
            assert "not allowed" in reply["error"]["message"]


async def odd(port: int, raw: bytes) -> bytes:
    """What comes back for `raw` on a connection of its own."""
    reader, writer = await asyncio.open_connection(PROXY, port, local_addr=(CALLER, 0))
    received = b""
    try:
        writer.write(raw)
        async with asyncio.timeout(QUIET_S):
            while piece := await reader.read(65_536):
                received += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return received


def chat_request(key: str, token: str, *lines: str) -> bytes:
    """A whole request that is answered with `token`."""
    body = json.dumps(unknown_model(token)).encode()
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {key}"]
    head += ["Content-Type: application/json", f"Content-Length: {len(body)}", *lines]
    return "".join(f"{line}\r\n" for line in head).encode() + b"\r\n" + body


def begun(key: str) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", ""]
    return "\r\n".join(lines).encode()


def two_readings(key: str) -> list[bytes]:
    """Requests that one may read in this way and one in that, each before a whole one."""
    found = []
    for raw in REFUSED.values():
        head, _, body = raw.partition(b"\r\n\r\n")
        head += f"\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        inner = chat_request(key, secrets.token_hex(8))
        found += [head + body + inner, head + inner]
    chunked = begun(key) + b"Transfer-Encoding: chunked\r\n\r\n"
    broken = BROKEN_CHUNKS.values()
    return [*found, *(chunked + one + chat_request(key, secrets.token_hex(8)) for one in broken)]


def bodies(key: str, hidden: str) -> list[bytes]:
    """Requests that offer an upgrade, and whose body is a whole request."""
    inner = chat_request(key, hidden)
    coded = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    found = []
    for lines in OFFERS.values():
        head = begun(key) + "".join(f"{line}\r\n" for line in lines).encode()
        found.append(head + b"Content-Length: %d\r\n\r\n" % len(inner) + inner)
        found.append(head + b"Transfer-Encoding: chunked\r\n\r\n" + coded)
    return found


async def test_odd_requests_reach_no_other_caller(behind: Serving, proxy: int) -> None:
    hidden = secrets.token_hex(8)
    raw = [*two_readings(behind.key), *bodies(behind.key, hidden)]
    random.Random(0).shuffle(raw)
    honest = asyncio.to_thread(callers, proxy, behind.key)
    wrong, *received = await asyncio.gather(honest, *(odd(proxy, one) for one in raw))
    assert wrong == []
    assert not [one for one in received if hidden.encode() in one]
    # Connections of the proxy that were left in disorder would be used now.
    assert await asyncio.to_thread(callers, proxy, behind.key) == []


def client_of_audit(behind: Serving, port: int, headers: Mapping[str, str], peer: str) -> str:
    """The address in the audit of a key that is made through `port`."""
    body = {"label": "forged", "policy_id": "pol_default"}
    status, made = once(port, "/v1/keys", body, {**bearer(behind.key), **headers}, peer=peer)
    assert status == 201, made
    _, lines = once(behind.port, "/v1/audit", {}, bearer(behind.key), method="GET")
    return next(
        str(line["origin"]["client_ip"]) for line in lines["data"] if made["id"] in json.dumps(line)
    )


@pytest.fixture(scope="module")
def keys(behind: Serving) -> dict[str, str]:
    """For each address, a key that works from there only."""
    found = {}
    for address in (CALLER, ELSEWHERE):
        document = {"client_networks": [f"{address}/32"]}
        body = {"name": f"only {address}", "document": document}
        status, policy = once(behind.port, "/v1/policies", body, bearer(behind.key))
        assert status == 201, policy
        made = {"label": address, "policy_id": policy["id"]}
        found[address] = once(behind.port, "/v1/keys", made, bearer(behind.key))[1]["secret"]
    return found


def status_of(port: int, key: str, headers: Mapping[str, str], peer: str = CALLER) -> int:
    """Of a chat."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": script(emit="hi")}]}
    return once(port, CHAT, body, {**bearer(key), **headers}, peer=peer)[0]


def socket_status(port: int, key: str, headers: Mapping[str, str], peer: str = CALLER) -> int:
    """Of the way into a Realtime session."""
    connection = socket.create_connection((PROXY, port), 60, (peer, 0))
    given = {name: value for name, value in headers.items() if name != "Connection"}
    address = f"ws://{PROXY}:{port}/v1/realtime?model={MODEL}"
    with connection:
        try:
            with connect(address, sock=connection, additional_headers={**bearer(key), **given}):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code


@pytest.mark.parametrize("forged", FORGED)
def test_a_proxy_passes_on_the_address_that_it_sees(
    behind: Serving, proxy: int, keys: dict[str, str], forged: str
) -> None:
    headers = FORGED[forged]
    assert client_of_audit(behind, proxy, headers, CALLER) == CALLER
    for ask, good in ((status_of, 200), (socket_status, 101)):
        assert ask(proxy, keys[CALLER], headers) == good
        assert ask(proxy, keys[ELSEWHERE], headers) == 403


@pytest.mark.parametrize("forged", FORGED)
def test_only_a_trusted_peer_says_who_asks(
    behind: Serving, keys: dict[str, str], forged: str
) -> None:
    headers = FORGED[forged]
    assert client_of_audit(behind, behind.port, headers, CALLER) == CALLER
    for ask, good in ((status_of, 200), (socket_status, 101)):
        assert ask(behind.port, keys[CALLER], headers) == good
        assert ask(behind.port, keys[ELSEWHERE], headers) == 403


@pytest.mark.parametrize("forged", ["custom", "many", "standard", "both"])
def test_a_trusted_peer_is_believed(behind: Serving, keys: dict[str, str], forged: str) -> None:
    headers = FORGED[forged]
    assert client_of_audit(behind, behind.port, headers, PROXY) == ELSEWHERE
    for ask, good in ((status_of, 200), (socket_status, 101)):
        assert ask(behind.port, keys[ELSEWHERE], headers, PROXY) == good
        assert ask(behind.port, keys[CALLER], headers, PROXY) == 403
