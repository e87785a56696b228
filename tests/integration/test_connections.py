"""Bad connections beside good ones, at a real appliance: silent, dripping, half, never reading."""

from __future__ import annotations

import json
import random
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import requests

from tests.integration.scripted.repository import ScriptedRepository, script
from tests.integration.serving import Serving, running, wait_until

BAD_KINDS, NEVER_READS = 5, 4
LIMITS = {
    "SERVER__FIRST_BYTE_TIMEOUT_S": 5,
    "SERVER__HEAD_TIMEOUT_S": 5,
    "SERVER__BODY_TIMEOUT_S": 8,
    "SERVER__SEND_TIMEOUT_S": 5,
    "SERVER__LINGER_S": 2,
    "SERVER__KEEP_ALIVE_S": 5,
}
SLOWEST_S = 60.0
"""For a good request, on a machine that does much else."""
GONE_S = 90.0


@pytest.fixture(scope="module")
def narrow(
    scripted_repository: ScriptedRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """An appliance with 256 descriptors for each of its processes."""
    folder = tmp_path_factory.mktemp("narrow")
    yield from running(Serving(folder, scripted_repository.settings | LIMITS, open_files=256))


@pytest.fixture(scope="module")
def wide(
    scripted_repository: ScriptedRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """One with as many as the system gives, and room for the bad of one peer."""
    more = {"SERVER__MAX_CONNECTIONS_PER_PEER": 5000}
    folder = tmp_path_factory.mktemp("wide")
    yield from running(Serving(folder, scripted_repository.settings | LIMITS | more))


class Bad:
    """Many bad connections of all kinds, some of which go on to send a byte now and then."""

    def __init__(self, serving: Serving, count: int) -> None:
        self._serving = serving
        self._sockets: list[socket.socket] = []
        self._dripping: list[socket.socket] = []
        self._ended = threading.Event()
        for number in range(count):
            kind = number % BAD_KINDS
            # Of what a client does not read the system buffers megabytes, so these are fewer.
            self._open(kind if kind < NEVER_READS or number % 50 == kind else 0)
        self._dripper = threading.Thread(target=self._drip)
        self._dripper.start()

    def _open(self, kind: int) -> None:
        connection = socket.create_connection(("127.0.0.1", self._serving.port), 30)
        self._sockets.append(connection)
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {self._serving.key}\r\n"
        )
        # It may have been refused by then.
        with suppress(OSError):
            match kind:
                case 0:
                    return
                case 1:
                    connection.sendall(head.encode())
                    self._dripping.append(connection)
                case 2:
                    connection.sendall(head.encode()[:40])
                case 3:
                    connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
                    self._dripping.append(connection)
                case _:
                    # More than the system's buffers hold.
                    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)

    def _drip(self) -> None:
        while not self._ended.wait(1.0):
            for connection in self._dripping:
                with suppress(OSError):
                    connection.send(b"a")

    def close(self) -> None:
        self._ended.set()
        self._dripper.join()
        for connection in self._sockets:
            connection.close()


@contextmanager
def bad_connections(serving: Serving, count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bad = Bad(serving, count)
    try:
        yield
    finally:
        bad.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def chat(serving: Serving, text: str) -> tuple[int, float]:
    """Status and duration of a good request, on a connection of its own."""
    began_at = time.monotonic()
    messages = [{"role": "user", "content": script(emit=text)}]
    reply = requests.post(
        f"{serving.base_url}/chat/completions",
        data=json.dumps({"model": "scripted/scripted", "messages": messages}),
        headers={"Authorization": f"Bearer {serving.key}"},
        timeout=60,
    )
    if reply.status_code == 200:
        assert reply.json()["choices"][0]["message"]["content"] == text
    return reply.status_code, time.monotonic() - began_at


def good_ones(serving: Serving, count: int) -> None:
    """All are answered, each with its own answer."""
    took = []
    for number in range(count):
        status, duration_s = chat(serving, f"answer {number} {random.random()}")
        assert status == 200
        took.append(duration_s)
    assert sorted(took)[int(len(took) * 0.99)] < SLOWEST_S, sorted(took)[-5:]


def connections(serving: Serving) -> int:
    """Sockets of the worker that clients are at the other end of."""
    return sum(
        1
        for one in serving.worker().net_connections("tcp4")
        if one.laddr.port == serving.port and one.raddr
    )


def test_two_thousand_bad_connections_and_good_ones(wide: Serving) -> None:
    with bad_connections(wide, 2000):
        good_ones(wide, 50)
        wait_until(lambda: connections(wide) == 0, GONE_S, "bad connections are closed")
        good_ones(wide, 5)
    assert chat(wide, "still well")[0] == 200


def test_bad_connections_do_not_use_descriptors_up(narrow: Serving) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(bad_connections(narrow, 200))
        assert connections(narrow) < 200
        good_ones(narrow, 50)
        assert narrow.worker().num_fds() < 250
        ready = requests.get(f"{narrow.url}/health/ready", timeout=60)
        assert ready.status_code == 200, ready.text
        wait_until(lambda: connections(narrow) == 0, GONE_S, "bad connections are closed")
    for word in ("Too many open files", "cannot be written", "Traceback"):
        assert word not in narrow.log, narrow.log
    # What was used is in the books.
    usage = requests.get(
        f"{narrow.base_url}/usage",
        headers={"Authorization": f"Bearer {narrow.key}"},
        timeout=60,
    )
    assert usage.status_code == 200


def test_busy_connections_leave_descriptors_for_the_journal(narrow: Serving) -> None:
    """All places taken by requests that are at work: the next are refused, and nothing breaks."""
    body = json.dumps(
        {
            "model": "scripted/scripted",
            "messages": [{"role": "user", "content": script(emit="x", first_delay_ms=15_000)}],
        }
    )
    request = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {narrow.key}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    statuses: Counter[str] = Counter()
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", narrow.port), 60))
            for _ in range(400)
        ]
        for one in sockets:
            with suppress(OSError):
                one.sendall(request)
        for one in sockets:
            try:
                statuses[one.recv(65_536)[9:12].decode()] += 1
            except OSError:
                statuses["reset"] += 1
        assert narrow.worker().num_fds() < 250
    assert statuses["200"] > 50, statuses
    assert set(statuses) <= {"200", "503", "429", "reset", ""}, statuses
    assert "Too many open files" not in narrow.log
    assert statuses["200"] < len(sockets), statuses
    wait_until(lambda: chat(narrow, "after")[0] == 200, 60, "a good request is answered")


def test_after_a_408_the_connection_is_closed(wide: Serving) -> None:
    with socket.create_connection(("127.0.0.1", wide.port), 60) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: 100\r\n\r\n{" % wide.key.encode()
        )
        received = b""
        while piece := connection.recv(65_536):
            received += piece
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close\r\n" in received
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/chat/completions", {"code": "request_too_large", "reason": "head_too_large"}),
        ("/v1beta/models/x:generateContent", {"code": 431, "status": "INVALID_ARGUMENT"}),
        ("/v1/messages", {"type": "request_too_large"}),
    ],
)
def test_a_head_too_large_is_refused_in_the_words_of_its_dialect(
    scripted_appliance: Serving, path: str, words: dict[str, object]
) -> None:
    url = f"{scripted_appliance.url}{path}"
    reply = requests.post(url, headers={"X-Large": "a" * 70_000}, data=b"{}", timeout=60)
    assert reply.status_code == 431
    assert words.items() <= reply.json()["error"].items()
    assert "65536 bytes" in reply.text


def test_a_websockets_handshake_has_the_same_bounds(scripted_appliance: Serving) -> None:
    with socket.create_connection(("127.0.0.1", scripted_appliance.port), 60) as connection:
        lines = "".join(f"X-{number}: y\r\n" for number in range(130))
        connection.sendall(
            (
                "GET /v1/realtime?model=scripted/scripted HTTP/1.1\r\nHost: x\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
            ).encode()
        )
        assert connection.recv(65_536).startswith(b"HTTP/1.1 431 ")
