"""Large bodies against a whole appliance with its own engine: nothing is worked on for nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.integration.limited import bearer, new_key
from tests.integration.serving import Serving, wait_until

pytestmark = pytest.mark.slow

SIZE = 8 * 2**20
MEGABYTE = 2**20
MAX_MORE = 100 * MEGABYTE
"""Two bodies of one tenant at a time, and what is made of them."""
MAX_LEFT = 50 * MEGABYTE
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    made = Serving(tmp_path_factory.mktemp("large")).wait_ready()
    yield made
    assert made.stop() == 0


class Memory:
    """The resident memory of the worker, watched from `before` on."""

    def __init__(self, serving: Serving) -> None:
        self._worker = serving.worker()
        self.before = self.now
        self.peak = self.before
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._run)

    @property
    def now(self) -> int:
        return int(self._worker.memory_info().rss)

    def __enter__(self) -> Memory:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _run(self) -> None:
        while not self._over.wait(0.005):
            self.peak = max(self.peak, self.now)


def said(text: bytes) -> bytes:
    return b'{"model":"demo/chat","messages":[{"role":"user","content":"%b"}]}' % text


def chat(serving: Serving, key: str) -> int:
    body = {
        "model": "demo/chat",
        "messages": [{"role": "user", "content": "Hello!"}],
        "max_tokens": 1,
    }
    url = f"{serving.base_url}/chat/completions"
    return requests.post(url, json=body, headers=bearer(key), timeout=PATIENCE_S).status_code


def left_early(serving: Serving, key: str, body: bytes) -> str:
    """The status of a chat with `body` whose client waits for 2.5 s and leaves."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", serving.port), timeout=2.5) as connection:
        try:
            connection.sendall(head.encode() + body)
            return connection.recv(64)[9:12].decode()
        except OSError:
            return ""


def test_bodies_that_are_left_cost_little_and_hold_nobody_up(serving: Serving) -> None:
    key, _ = new_key(serving, rpm_limit=1, concurrency_limit=1, tpd_limit=10)
    body = said(b"a" * (SIZE - 100))
    assert chat(serving, serving.key) == 200
    seen: Counter[str] = Counter()
    with Memory(serving) as memory, ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            attempts = [pool.submit(left_early, serving, key, body) for _ in range(8)]
            # Somebody else is answered while all of them are there.
            assert chat(serving, serving.key) == 200
            seen.update(one.result() for one in attempts)
    assert memory.peak - memory.before < MAX_MORE
    assert seen["429"] > 0
    assert set(seen) <= {"429", "400", ""}
    wait_until(lambda: memory.now - memory.before < MAX_LEFT, PATIENCE_S, "the memory was returned")


ODD = {
    "one character": said(b"a" * (SIZE - 100)),
    "white space": said(b" " * (SIZE - 100)),
    "special tokens": said(b"<|im_end|>" * (SIZE // 10 - 10)),
    "words": said(b"hello world " * (SIZE // 12 - 10)),
    "escapes": said(b"\\u0041" * (SIZE // 6 - 20)),
    "quotes": said(b'\\"' * (SIZE // 2 - 50)),
    "messages": b'{"model":"demo/chat","messages":['
    + b'{"role":"user","content":"a"},' * 270_000
    + b'{"role":"user","content":"a"}]}',
    "as many messages as may be": b'{"model":"demo/chat","messages":['
    + b'{"role":"user","content":"a"},' * 26_000
    + b'{"role":"user","content":"a"}]}',
    "nesting": b'{"model":"demo/chat","messages":' + b"[" * (SIZE - 100),
    "members": b'{"model":"demo/chat","messages":[],"x":{%b}}'
    % b",".join(b'"%05d":0' % at for at in range(750_000)),
    "assistant": b'{"model":"demo/chat","messages":[{"role":"assistant","content":"%b"}]}'
    % (b"hello world " * (SIZE // 12 - 10)),
}
ODD_OTHERS = {
    "token ids": (
        "/completions",
        b'{"model":"demo/chat","prompt":[' + b"1," * 4_000_000 + b"1]}",
    ),
    "texts": (
        "/embeddings",
        b'{"model":"demo/embed","input":[%b]}'
        % b",".join([b'"' + b"hello world " * 330 + b'"'] * 2040),
    ),
    "detokenised": ("/detokenize", b'{"model":"demo/chat","tokens":[' + b"1," * 500_000 + b"1]}"),
}


@pytest.mark.parametrize(
    ("path", "body"),
    [*(("/chat/completions", body) for body in ODD.values()), *ODD_OTHERS.values()],
    ids=[*ODD, *ODD_OTHERS],
)
def test_a_body_costs_no_more_than_its_size_deserves(
    serving: Serving, path: str, body: bytes
) -> None:
    assert len(body) <= SIZE
    # Freed memory that has not been returned yet would be counted for what comes next.
    time.sleep(1)
    with Memory(serving) as memory:
        reply = requests.post(
            serving.base_url + path, data=body, headers=bearer(serving.key), timeout=PATIENCE_S
        )
    assert reply.status_code == 400, reply.text[:300]
    assert memory.peak - memory.before < 3 * SIZE + 8 * MEGABYTE
