"""Two workers: who gets a connection, who takes the place of a killed one, background responses.

Background responses may be asked for at any worker, and all workers may be killed.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import requests

from tests.integration.limited import bearer
from tests.integration.scripted.repository import ScriptedRepository, script
from tests.integration.serving import Serving, running, wait_until
from tests.redis_server import running_redis

MODEL = "scripted/scripted"
LOST_AFTER_S = 2.0
WAIT_S = 60.0


@pytest.fixture(scope="module")
def two_workers(
    scripted_repository: ScriptedRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """A server of two workers over one store."""
    with running_redis(tmp_path_factory.mktemp("redis")) as redis:
        settings = scripted_repository.settings | {
            "SERVER__WORKERS": 2,
            "SERVER__STANDBY": True,
            "REDIS__URL": redis.url,
            "RESPONSES__LOST_AFTER_S": LOST_AFTER_S,
        }
        yield from running(Serving(tmp_path_factory.mktemp("two_workers"), settings))


def call(serving: Serving, method: str, path: str, **more: Any) -> requests.Response:
    """One call on a connection of its own, so that any worker may get it."""
    headers = bearer(serving.key) | {"Connection": "close"}
    return requests.request(
        method, f"{serving.base_url}/responses{path}", headers=headers, timeout=WAIT_S, **more
    )


def queued(serving: Serving, **fields: Any) -> str:
    """The id of a background response that does `fields`."""
    body = {"model": MODEL, "input": script(**fields), "background": True}
    reply = call(serving, "POST", "", json=body)
    assert reply.status_code == 200, reply.text
    response_id: str = reply.json()["id"]
    return response_id


def until(serving: Serving, response_id: str, done: Callable[[str], bool]) -> dict[str, Any]:
    """The response once its status is one that `done` takes."""
    give_up_at = time.monotonic() + WAIT_S
    while True:
        found: dict[str, Any] = call(serving, "GET", f"/{response_id}").json()
        if done(found["status"]):
            return found
        assert time.monotonic() < give_up_at, found["status"]
        time.sleep(0.05)


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def asked(stack: contextlib.ExitStack, serving: Serving) -> socket.socket:
    """A connection on which a request has been sent."""
    connection = socket.create_connection(("127.0.0.1", serving.port), WAIT_S)
    stack.enter_context(connection)
    connection.sendall(HEALTH)
    return connection


def is_answered(connection: socket.socket) -> bool:
    return connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def connections_of(worker: psutil.Process, serving: Serving) -> int:
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == serving.port
        for one in worker.net_connections("tcp")
    )


def is_whole(serving: Serving) -> bool:
    """Whether both workers answer."""
    told = requests.get(
        f"{serving.url}/metrics", headers=bearer(serving.key) | {"Connection": "close"}, timeout=30
    ).text
    return all(f'orchestrator_connections{{worker="{one}"' in told for one in (0, 1))


def test_connections_are_spread_over_the_workers(two_workers: Serving) -> None:
    wait_until(lambda: is_whole(two_workers), WAIT_S, "both workers answer")
    with contextlib.ExitStack() as stack:
        assert all(is_answered(asked(stack, two_workers)) for _ in range(32))
        counts = [connections_of(worker, two_workers) for worker in two_workers.workers()]
        assert sum(counts) >= 32
        # Mostly 16 and 16; a worker that gets no processor for a while loses some to the other.
        assert min(counts) >= 8, counts
    with contextlib.ExitStack() as stack:
        # All at the same time.
        connections = [asked(stack, two_workers) for _ in range(32)]
        assert all(map(is_answered, connections))
        counts = [connections_of(worker, two_workers) for worker in two_workers.workers()]
        assert min(counts) >= 8, counts


def test_connections_that_wait_outlive_a_killed_worker(two_workers: Serving) -> None:
    wait_until(lambda: is_whole(two_workers), WAIT_S, "both workers answer")
    workers = killed, _ = two_workers.workers()
    for worker in workers:
        worker.suspend()
    with contextlib.ExitStack() as stack:
        waiting = [asked(stack, two_workers) for _ in range(16)]
        killed.kill()
        workers[1].resume()
        assert all(map(is_answered, waiting))
        # Connections go on being accepted meanwhile, and afterwards by both.
        assert is_answered(asked(stack, two_workers))
    wait_until(lambda: is_whole(two_workers), WAIT_S, "both workers answer again")


def test_the_one_that_stands_by_takes_the_place_of_a_killed_worker(two_workers: Serving) -> None:
    wait_until(lambda: is_whole(two_workers), WAIT_S, "both workers answer")
    wait_until(lambda: len(two_workers.standby()) == 1, WAIT_S, "one stands by")
    (standby,) = two_workers.standby()
    # It has waited for its number since then, and sleeps.
    wait_until(lambda: standby.status() == psutil.STATUS_SLEEPING, WAIT_S, "it waits")
    killed = two_workers.worker()
    killed.send_signal(signal.SIGKILL)
    killed.wait(WAIT_S)
    wait_until(lambda: standby in two_workers.workers(), WAIT_S, "it is a worker")
    wait_until(lambda: is_whole(two_workers), WAIT_S, "both workers answer")
    wait_until(lambda: len(two_workers.standby()) == 1, WAIT_S, "another one stands by")


def test_every_worker_tells_of_a_response_and_may_cancel_it(two_workers: Serving) -> None:
    ids = [queued(two_workers, emit="x", repeat=500, delay_ms=20) for _ in range(6)]
    for one in ids:
        until(two_workers, one, lambda status: status == "in_progress")
    assert [call(two_workers, "POST", f"/{one}/cancel").json()["status"] for one in ids] == [
        "cancelled"
    ] * len(ids)
    short = queued(two_workers, emit="abcdef", delay_ms=100)
    followed = [call(two_workers, "GET", f"/{short}?stream=true").text for _ in range(3)]
    assert len(set(followed)) == 1
    assert "event: response.completed" in followed[0]


def test_responses_whose_workers_were_killed_have_failed_soon(two_workers: Serving) -> None:
    ids = [queued(two_workers, emit="x", repeat=500, delay_ms=20) for _ in range(3)]
    for one in ids:
        until(two_workers, one, lambda status: status == "in_progress")
    killed = two_workers.workers()
    for worker in killed:
        worker.kill()
    psutil.wait_procs(killed, timeout=WAIT_S)
    for one in ids:
        found = until(two_workers, one, lambda status: status != "in_progress")
        assert found["status"] == "failed"
        assert "has ended" in found["error"]["message"]
        assert "event: response.failed" in call(two_workers, "GET", f"/{one}?stream=true").text
        assert call(two_workers, "DELETE", f"/{one}").status_code == 200
        assert call(two_workers, "GET", f"/{one}").status_code == 404
