"""Limits while processes and Redis come and go, through a whole `orchestrator serve`."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.integration.limited import chat, new_key, post, wait_for_room_in_the_minute
from tests.integration.scripted.repository import ScriptedRepository, script, write_repository
from tests.integration.serving import Serving, wait_until
from tests.redis_server import RedisServer, running_redis

WORKERS = 4
TIMEOUT_S = 1.0
ROOMY_S = 60.0
"""Far above the time-out, as the machine may be busy, and far below the outage."""
OUTAGE_S = 12.0
Start = Callable[..., Serving]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRepository:
    return write_repository(tmp_path_factory.mktemp("outages") / "repository")


@pytest.fixture
def start(repository: ScriptedRepository, tmp_path: Path) -> Iterator[Start]:
    started: list[Serving] = []

    def one(**values: object) -> Serving:
        serving = Serving(tmp_path, repository.settings | values)
        started.append(serving)
        return serving

    yield one
    for serving in started:
        serving.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as running:
        yield running


def with_redis(redis: RedisServer, **more: object) -> dict[str, object]:
    return {
        "SERVER__WORKERS": WORKERS,
        "REDIS__URL": redis.url,
        "REDIS__TIMEOUT_S": TIMEOUT_S,
        "REDIS__WORKER_TTL_S": 3,
        **more,
    }


def left(serving: Serving, key: str) -> int:
    """Tokens of today that are neither used nor reserved."""
    error = post(serving, key, chat("hi", max_tokens=4000)).json()["error"]
    return int(error["limit"]["remaining"])


def test_several_workers_without_redis_are_refused_with_the_setting_to_set(start: Start) -> None:
    serving = start(SERVER__WORKERS=4)
    assert serving.wait() == 1
    assert "ORCHESTRATOR_REDIS__URL" in serving.log


def test_a_restart_forgets_nothing_used_today(start: Start) -> None:
    serving = start().wait_ready()
    key, _ = new_key(serving, tpd_limit=2000)
    post(serving, key, chat("hello", max_tokens=10))
    assert left(serving, key) == 1990
    for stop in (signal.SIGTERM, signal.SIGKILL):
        post(serving, key, chat("hello", max_tokens=10))
        before = left(serving, key)
        if stop == signal.SIGKILL:
            # With what follows the parent is gone at once, and nobody drains anything.
            for worker in serving.workers():
                worker.kill()
            serving.kill()
        else:
            assert serving.stop() == 0
        serving = start().wait_ready()
        # The port is another one; the store is the same.
        assert left(serving, key) == before


def test_a_killed_worker_is_replaced_and_a_stop_drains_all(
    start: Start, redis: RedisServer
) -> None:
    serving = start(**with_redis(redis)).wait_ready()
    wait_until(lambda: len(serving.workers()) == WORKERS, 60, "all workers")
    victim = serving.workers()[0]
    victim.kill()
    wait_until(
        lambda: (
            len(found := serving.workers()) == WORKERS
            and victim.pid not in [worker.pid for worker in found]
        ),
        60,
        "a new worker",
    )
    slow = chat(script(emit="x", repeat=40, delay_ms=50))
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(post, serving, serving.key, slow) for _ in range(8)]
        time.sleep(1)
        assert serving.stop() == 0, serving.log
        assert [one.result().status_code for one in running] == [200] * 8
    assert serving.leavings() == []


def test_a_hung_redis_costs_callers_no_more_than_the_setting(
    start: Start, redis: RedisServer
) -> None:
    serving = start(**with_redis(redis)).wait_ready()
    key, _ = new_key(serving, rpm_limit=10_000, tpd_limit=100_000)
    assert post(serving, key, chat("hi", max_tokens=5)).status_code == 200
    redis.hang()
    ends_at = time.monotonic() + OUTAGE_S

    def timed(secret: str) -> tuple[float, requests.Response]:
        began_at = time.monotonic()
        reply = post(serving, secret, chat("hi", max_tokens=5))
        return time.monotonic() - began_at, reply

    found, unlimited = [], []

    def one_after_the_other(_: int) -> None:
        while time.monotonic() < ends_at:
            found.append(timed(key))
            unlimited.append(timed(serving.key))
            time.sleep(0.02)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one_after_the_other, range(8)))
    assert {reply.status_code for _, reply in found} == {503}
    assert found[0][1].json()["error"]["code"] == "overloaded"
    assert found[0][1].json()["error"]["reason"] == "quota_unavailable"
    assert int(found[0][1].headers["retry-after"]) == 1
    times = sorted(took_s for took_s, _ in found)
    assert times[-1] < ROOMY_S
    # A caller without limits needs no Redis.
    assert {reply.status_code for _, reply in unlimited} == {200}
    # Most of the others do not wait for it either: the breaker is open after the first.
    usual_s = statistics.median(took_s for took_s, _ in unlimited)
    assert statistics.median(times) < usual_s + TIMEOUT_S / 2
    redis.wake()
    wait_until(
        lambda: post(serving, key, chat("hi", max_tokens=5)).status_code == 200, 60, "it is back"
    )


def test_a_local_share_holds_the_limit_while_redis_is_gone(
    start: Start, redis: RedisServer
) -> None:
    serving = start(**with_redis(redis, QUOTA__ON_OUTAGE="local_share")).wait_ready()
    key, _ = new_key(serving, rpm_limit=40)
    assert post(serving, key, chat("hi")).status_code == 200
    redis.kill()
    wait_for_room_in_the_minute(25)
    minute = int(time.time()) // 60
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: post(serving, key, chat("hi")), range(120)))
    assert int(time.time()) // 60 == minute, "the test ran into the next minute"
    found = [reply.status_code for reply in replies]
    assert set(found) == {200, 429}
    assert 10 <= found.count(200) <= 40
    redis.start()
    wait_until(
        lambda: serving.log.count("Redis answers again") >= WORKERS, 100, "every worker is back"
    )
    # What was granted meanwhile is counted: nothing is granted twice in this minute.
    again = [post(serving, key, chat("hi")).status_code for _ in range(60)]
    if int(time.time()) // 60 == minute:
        assert found.count(200) + again.count(200) <= 41
