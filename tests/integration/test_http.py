"""The wire itself, byte by byte, through a real port."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from tests.integration.scripted.repository import ScriptedRepository, script
from tests.integration.serving import Serving, wait_until

SCRIPTED = "scripted/scripted"


def chat(*, stream: bool, **fields: object) -> bytes:
    """The body of a chat that makes the scripted model do `fields`."""
    messages = [{"role": "user", "content": script(**fields)}]
    return json.dumps({"model": SCRIPTED, "messages": messages, "stream": stream}).encode()


def head(serving: Serving, *lines: str, key: str | None = None) -> bytes:
    """The head of a chat request."""
    fixed = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: 127.0.0.1:{serving.port}",
        f"Authorization: Bearer {key or serving.key}",
    ]
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


@contextmanager
def connected(serving: Serving) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", serving.port), timeout=60) as connection:
        yield connection


def reply(connection: socket.socket) -> tuple[int, bytes]:
    """Status and head of the reply, as soon as the head is there."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        assert more, received
        received += more
    return int(received.split()[1]), received


def post(serving: Serving, body: bytes, **more: bool) -> requests.Response:
    return requests.post(
        f"{serving.base_url}/chat/completions",
        data=body,
        headers={"Authorization": f"Bearer {serving.key}"},
        timeout=60,
        stream=more.get("stream", False),
    )


def test_a_wrong_key_is_refused_while_the_body_is_still_on_its_way(
    scripted_appliance: Serving,
) -> None:
    with connected(scripted_appliance) as connection:
        wrong = "op_live_0000_" + "0" * 32
        connection.sendall(head(scripted_appliance, "Content-Length: 1000", key=wrong))
        status, received = reply(connection)
    assert status == 401
    assert b"www-authenticate: Bearer" in received


def test_an_announced_body_over_the_limit_is_refused_at_once(scripted_appliance: Serving) -> None:
    with connected(scripted_appliance) as connection:
        connection.sendall(head(scripted_appliance, "Content-Length: 99999999999"))
        assert reply(connection)[0] == 413


@pytest.mark.parametrize(
    ("key", "size", "status"),
    [("op_live_0000_" + "0" * 32, 7_000_000, 401), ("", 20_000_000, 413)],
)
def test_a_refused_body_does_not_keep_the_client_from_reading_why(
    scripted_appliance: Serving, key: str, size: int, status: int
) -> None:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {key or scripted_appliance.key}"
        for _ in range(2):
            answer = session.post(
                f"{scripted_appliance.base_url}/chat/completions",
                data=b"x" * size,
                timeout=60,
            )
            assert answer.status_code == status
        assert session.get(f"{scripted_appliance.url}/health", timeout=60).status_code == 200


def test_a_chunked_body_is_read_and_refused_when_it_grows_too_large(
    scripted_appliance: Serving,
) -> None:
    body = chat(stream=False, emit="fine")
    with connected(scripted_appliance) as connection:
        connection.sendall(head(scripted_appliance, "Transfer-Encoding: chunked"))
        for start in range(0, len(body), 10):
            piece = body[start : start + 10]
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        assert reply(connection)[0] == 200
    with connected(scripted_appliance) as connection:
        connection.sendall(head(scripted_appliance, "Transfer-Encoding: chunked"))
        piece = b"x" * 65536
        try:
            for _ in range(8 * 16 + 2):
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        except ConnectionError:
            pass
        assert reply(connection)[0] == 413


def test_each_token_of_a_slow_stream_is_a_chunk_of_its_own(scripted_appliance: Serving) -> None:
    body = chat(stream=True, emit="four", delay_ms=150)
    with connected(scripted_appliance) as connection:
        request = head(scripted_appliance, f"Content-Length: {len(body)}", "Connection: close")
        connection.sendall(request + body)
        received = b""
        while more := connection.recv(65536):
            received += more
    _, _, rest = received.partition(b"\r\n\r\n")
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunk, rest = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        if chunk:
            chunks.append(chunk)
    # What comes together, as the last token and the end may, leaves together.
    assert [text for chunk in chunks if (text := said(chunk))] == ["f", "o", "u", "r"]
    for chunk in chunks:
        assert chunk.endswith(b"\n\n")
        assert chunk.isascii()
        for event in chunk[:-2].split(b"\n\n"):
            assert event.startswith(b"data: ")
            assert b"\n" not in event
    assert chunks[-1].endswith(b"data: [DONE]\n\n")


def said(chunk: bytes) -> str:
    """The text in the events of one chunk."""
    events = [line[6:] for line in chunk.splitlines() if line.startswith(b"data: {")]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    return "".join(delta.get("content", "") for delta in deltas)


def test_the_first_token_leaves_before_the_last_is_made(scripted_appliance: Serving) -> None:
    answer = post(scripted_appliance, chat(stream=True, emit="slowly!", delay_ms=200), stream=True)
    lines = answer.iter_lines()
    next(lines)
    first_at = time.monotonic()
    for _ in lines:
        pass
    # 1.2 s but for a test that is slow itself; nothing if all of it came at once.
    assert time.monotonic() - first_at > 0.2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("when", ["before the first token", "after it"])
def test_a_client_that_hangs_up_stops_the_engine(
    scripted_appliance: Serving, scripted_repository: ScriptedRepository, stream: bool, when: str
) -> None:
    late = when == "after it"
    first_ms = 0 if late else 2000
    body = chat(stream=stream, emit="x", repeat=2000, delay_ms=5, first_delay_ms=first_ms)
    seen = len(scripted_repository.events())
    with connected(scripted_appliance) as connection:
        request = head(scripted_appliance, f"Content-Length: {len(body)}")
        connection.sendall(request + body)
        if stream and late:
            assert reply(connection)[0] == 200
        else:
            wait_until(lambda: len(scripted_repository.events()) > seen, 60, "the engine began")
            time.sleep(0.1)

    def stopped() -> bool:
        return any("stop" in event["event"] for event in scripted_repository.events()[seen:])

    wait_until(stopped, 60, "the engine was told to stop")


def test_one_connection_serves_one_request_after_another(scripted_appliance: Serving) -> None:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {scripted_appliance.key}"
        for stream in (True, False, True):
            answer = session.post(
                f"{scripted_appliance.base_url}/chat/completions",
                data=chat(stream=stream, emit="again"),
                timeout=60,
            )
            assert answer.status_code == 200
            assert "again" in answer.text or stream


def test_health_and_description_need_no_key(scripted_appliance: Serving) -> None:
    health = requests.get(f"{scripted_appliance.url}/health", timeout=60)
    assert health.json()["status"] == "ok"
    assert isinstance(health.json()["uptime_s"], int)
    document = requests.get(f"{scripted_appliance.url}/openapi.json", timeout=60).json()
    assert "/v1/chat/completions" in document["paths"]
