"""Background responses where any worker may be asked, and where all of them are killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import requests

from tests.integration.limited import bearer
from tests.integration.scripted.repository import ScriptedRepository, script
from tests.integration.serving import Serving, running
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
