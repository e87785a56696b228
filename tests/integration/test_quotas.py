"""Limits through a whole `orchestrator serve`: one worker, and four that count in Redis."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.limited import (
    chat,
    client_of,
    new_key,
    post,
    statuses,
    wait_for_room_in_the_minute,
)
from tests.integration.scripted.repository import ScriptedRepository, script, write_repository
from tests.integration.serving import Serving, wait_until
from tests.redis_server import RedisServer, running_redis

BUDGET = 2000


@dataclass
class Box:
    """A running appliance, the log of its engine, and its Redis if it has one."""

    serving: Serving
    repository: ScriptedRepository
    redis: RedisServer | None

    def settled(self, key_id: str) -> int:
        """What the store holds as used today."""
        with sqlite3.connect(
            f"file:{self.serving.data_dir}/orchestrator.db?mode=ro", uri=True
        ) as db:
            rows = db.execute("SELECT sum(used) FROM token_day WHERE scope_id = ?", (key_id,))
            return rows.fetchone()[0] or 0

    def left(self, key: str) -> int:
        """Tokens of today that are neither used nor reserved."""
        error = post(self.serving, key, chat("hi", max_tokens=4000)).json()["error"]
        assert error["limit"]["kind"] == "tpd"
        return int(error["limit"]["remaining"])

    def emitted(self, prefix: str) -> int:
        """What the engine took and gave for requests whose ids begin so."""
        return sum(
            event.get("prompt_tokens", 0) if event["event"] == "start" else event.get("tokens", 0)
            for event in self.repository.events(prefix)
        )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRepository:
    return write_repository(tmp_path_factory.mktemp("quotas") / "repository")


@pytest.fixture(scope="module", params=["one worker", "four workers"])
def box(
    request: pytest.FixtureRequest,
    repository: ScriptedRepository,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("box")
    if request.param == "one worker":
        yield from _box(folder, repository, None)
        return
    with running_redis(folder) as redis:
        yield from _box(folder, repository, redis)


def _box(folder: Path, repository: ScriptedRepository, redis: RedisServer | None) -> Iterator[Box]:
    values: dict[str, object] = dict(repository.settings)
    if redis is not None:
        values |= {
            "SERVER__WORKERS": 4,
            "REDIS__URL": redis.url,
            "REDIS__WORKER_TTL_S": 8,
        }
    serving = Serving(folder, values)
    try:
        yield Box(serving.wait_ready(), repository, redis)
        assert serving.stop() == 0, serving.log
        assert serving.leavings() == []
    finally:
        serving.kill()


async def test_of_64_parallel_clients_exactly_60_succeed(box: Box) -> None:
    for _ in range(4):
        key, _ = await asyncio.to_thread(new_key, box.serving, rpm_limit=60)
        await asyncio.to_thread(wait_for_room_in_the_minute, 30)
        minute = int(time.time()) // 60
        found = await statuses(box.serving, key, 64)
        if int(time.time()) // 60 == minute:
            assert found == {200: 60, 429: 4}
            return
    pytest.fail("every try ran into the next minute")


def test_a_refusal_tells_the_limit_in_body_and_headers(box: Box) -> None:
    key, _ = new_key(box.serving, rpm_limit=1, tpd_limit=5000)
    wait_for_room_in_the_minute(20)
    first = post(box.serving, key, chat("hi", max_tokens=10))
    reset_at = (int(time.time()) // 60 + 1) * 60
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert first.headers["x-ratelimit-reset-requests"] == str(reset_at)
    assert first.headers["x-ratelimit-remaining-tokens"] == "4988"
    assert first.headers["ratelimit-policy"] == '"rpm";q=1;w=60, "tpd";q=5000;w=86400'
    refused = post(box.serving, key, chat("hi", stream=True))
    assert refused.status_code == 429
    assert refused.json()["error"]["limit"] == {
        "scope": "key",
        "kind": "rpm",
        "limit": 1,
        "remaining": 0,
        "reset_at": reset_at,
    }
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert "x-should-retry" not in refused.headers
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-ratelimit-remaining-tokens" in refused.headers


def test_a_key_without_limits_gets_no_headers_of_limits(box: Box) -> None:
    reply = post(box.serving, box.serving.key, chat("hi"))
    assert reply.status_code == 200
    assert not [name for name in reply.headers if "ratelimit" in name.lower()]


def test_what_no_prompt_leaves_room_for_costs_nothing_and_tells_the_limits(box: Box) -> None:
    key, _ = new_key(box.serving, rpm_limit=1)
    wait_for_room_in_the_minute(20)
    for _ in range(3):
        refused = post(box.serving, key, chat("hi", max_tokens=1_000_000))
        assert refused.status_code == 400
        assert refused.headers["x-ratelimit-remaining-requests"] == "1"
    # Redis hears of what is given back a moment later; until then the next one may be refused.
    wait_until(lambda: post(box.serving, key, chat("hi")).status_code == 200, 20, "a place")


async def test_a_budget_of_tokens_holds_to_the_token_while_readers_leave(box: Box) -> None:
    key, key_id = await asyncio.to_thread(new_key, box.serving, tpd_limit=BUDGET)
    prefix = f"tpd-{random.randrange(10**9)}-"
    highest, done = 0, asyncio.Event()

    async def watch() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, await asyncio.to_thread(box.settled, key_id))
            await asyncio.sleep(0.05)

    async def one(number: int, stays_s: float) -> None:
        body = chat(script(emit="x", repeat=60, delay_ms=10), stream=True, max_tokens=60)
        async with client_of(box.serving, key) as client:
            for attempt in range(4):
                headers = {"x-request-id": f"{prefix}{number}-{attempt}"}
                try:
                    async with asyncio.timeout(random.uniform(0.05, stays_s)):
                        async with client.stream(
                            "POST", "/chat/completions", json=body, headers=headers
                        ) as reply:
                            assert reply.status_code in (200, 429)
                            await reply.aread()
                except TimeoutError:
                    continue

    watching = asyncio.create_task(watch())
    stays_s = 1.5
    for first in range(0, 1000, 200):
        await asyncio.gather(*(one(first + number, stays_s) for number in range(200)))
        if box.left(key) < BUDGET / 2:
            break
        # The machine is busy: too few of them have seen a token.
        stays_s *= 2

    def is_drained() -> bool:
        return box.left(key) == BUDGET - box.settled(key_id)

    await asyncio.to_thread(wait_until, is_drained, 60, "all reservations settled")
    done.set()
    await watching
    settled = box.settled(key_id)
    assert settled == box.emitted(prefix)
    assert max(highest, settled) <= BUDGET
    assert settled > BUDGET / 2, "the budget was hardly used, so this showed nothing"
    assert box.left(key) == BUDGET - settled


def test_a_killed_worker_leaves_nothing_reserved_and_forgets_nothing_used(box: Box) -> None:
    key, key_id = new_key(box.serving, tpd_limit=BUDGET)
    post(box.serving, key, chat("hello", max_tokens=10))
    used = 10
    # The reply leaves first, what it did not need of its reservation comes back a moment later.
    wait_until(lambda: box.left(key) == BUDGET - used, 60, "the call is settled")
    wait_until(lambda: box.settled(key_id) == used, 60, "the store has been told")
    endless = chat(script(emit="x", repeat=600, delay_ms=20), max_tokens=600)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(post, box.serving, key, endless) for _ in range(2)]
        wait_until(lambda: box.left(key) < BUDGET - 1000, 60, "two reservations")
        for worker in box.serving.workers():
            worker.send_signal(signal.SIGKILL)
        for one in running:
            assert one.exception() is not None

    def is_free() -> bool:
        try:
            return box.left(key) == BUDGET - used
        except OSError:
            return False

    wait_until(is_free, 60, "nothing is reserved any more")
    assert box.settled(key_id) == used
