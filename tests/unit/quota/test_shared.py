"""Counters in Redis: together with other workers, through outages, and nothing counted twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio
from pydantic import SecretStr

from orchestrator.core.errors import QuotaUnavailable, RateLimited
from orchestrator.core.limits import Limits
from orchestrator.quota.counters import Change, Counter, utc_day
from orchestrator.quota.limiter import Limiter
from orchestrator.quota.redis_store import RedisStore
from orchestrator.quota.shared import SharedCounters
from orchestrator.quota.token_journal import TokenJournal
from orchestrator.settings import QuotaSettings, RedisSettings, Settings
from orchestrator.store.database import Database
from tests.redis_server import RedisServer, running_redis
from tests.unit.quota.clock import caller

pytestmark = pytest.mark.slow

TIMEOUT_S, PATIENT_S = 0.25, 20.0
TTL_S = 1.0
ROOMY_S = 60.0
"""Far above the time-out and far below the time that a hang would cost."""

Start = Callable[..., Awaitable[SharedCounters]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
def _at_work(server: RedisServer) -> Iterator[None]:
    yield
    server.wake()


@pytest_asyncio.fixture
async def start(
    server: RedisServer, settings: Settings, database: Database, request: pytest.FixtureRequest
) -> AsyncIterator[Start]:
    """Starts a worker; what is left of them ends with the test."""
    workers: list[SharedCounters] = []
    prefix = f"test-{abs(hash(request.node.name))}"

    async def one_more(
        *,
        timeout_s: float = PATIENT_S,
        on_outage: str = "fail_closed",
        shares: int = 2,
        now: Callable[[], float] = time.time,
    ) -> SharedCounters:
        changed = settings.model_copy(
            update={
                "redis": RedisSettings(
                    url=SecretStr(server.url),
                    timeout_s=timeout_s,
                    prefix=prefix,
                    retry_s=0.1,
                    worker_ttl_s=TTL_S,
                ),
                "quota": QuotaSettings.model_validate({"on_outage": on_outage, "shares": shares}),
            }
        )
        journal = TokenJournal(settings.data_dir / "quota", database)
        counters = SharedCounters(RedisStore(changed.redis), journal, changed, now=now)
        await counters.start()
        workers.append(counters)
        return counters

    yield one_more
    server.wake()
    for worker in workers:
        await worker.close()


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await done():  # noqa: ASYNC110  # another process tells nobody
            await asyncio.sleep(0.02)


async def remaining(limiter: Limiter, limits: Limits) -> int:
    outlook = await limiter.outlook(caller(limits), "chat", 0)
    hit = outlook.first
    assert hit is not None
    return hit.remaining + (0 if hit.kind == "tpd" else 1)


async def test_two_workers_admit_exactly_the_limit_together(start: Start) -> None:
    clock = lambda: 1_000_000_000.0  # noqa: E731  # one minute for both
    limiters = [Limiter(await start(), now=clock) for _ in range(2)]
    who = caller(Limits(rpm=60))
    done = await asyncio.gather(
        *(limiters[index % 2].admit(who, "chat") for index in range(100)), return_exceptions=True
    )
    assert sum(not isinstance(one, BaseException) for one in done) == 60
    assert sum(isinstance(one, RateLimited) for one in done) == 40


async def test_two_workers_admit_batches_whole_or_not_at_all(start: Start) -> None:
    clock = lambda: 1_000_000_000.0  # noqa: E731  # one minute for both
    workers = [await start() for _ in range(2)]
    limiters = [Limiter(one, now=clock) for one in workers]
    limits = Limits(rpm=11, concurrency=50, tpd=1000)
    who = caller(limits)
    done = await asyncio.gather(
        *(limiters[index % 2].admit(who, "chat", 3) for index in range(8)), return_exceptions=True
    )
    admitted = [one for one in done if not isinstance(one, BaseException)]
    assert len(admitted) == 3
    assert sum(sum(one.held.values()) for one in workers) == 9
    # Two places are left, which no batch of three has taken a part of.
    for limiter in limiters:
        await (await limiter.admit(who, "chat")).cancel()
    for admission in admitted:
        admission.begin()
        await admission.reserve(60)
        for part in admission.split([10, 20, 30]):
            await part.settle(5)
    assert sum(sum(one.held.values()) for one in workers) == 0

    async def is_settled() -> bool:
        seen = [await remaining(one, Limits(tpd=1000)) for one in limiters]
        return seen == [1000 - 3 * 15] * 2

    await until(is_settled)


async def test_a_refusal_by_the_tenant_takes_nothing_from_the_key(start: Start) -> None:
    limiter = Limiter(await start())
    await limiter.admit(caller(Limits(concurrency=9), Limits(concurrency=1)), "chat")
    for _ in range(3):
        with pytest.raises(RateLimited):
            await limiter.admit(caller(Limits(concurrency=9), Limits(concurrency=1)), "chat")
    assert await remaining(limiter, Limits(concurrency=9)) == 8


async def test_tokens_are_settled_for_every_worker(start: Start) -> None:
    first, second = Limiter(await start()), Limiter(await start())
    who = caller(Limits(tpd=100))
    admission = await first.admit(who, "chat")
    await admission.reserve(90)
    with pytest.raises(RateLimited):
        await (await second.admit(who, "chat")).reserve(11)
    await admission.settle(30)

    async def is_settled() -> bool:
        return await remaining(second, Limits(tpd=100)) == 70

    await until(is_settled)


async def test_what_a_dead_worker_held_is_free_after_a_while(start: Start) -> None:
    dying = await start()
    limiter = Limiter(await start())
    await (await Limiter(dying).admit(caller(Limits(tpd=100)), "chat")).reserve(100)
    assert await remaining(limiter, Limits(tpd=100)) == 0
    assert dying._keeper is not None
    dying._closing.set()  # as if killed: it tells nobody, and is silent from now on

    async def is_free() -> bool:
        return await remaining(limiter, Limits(tpd=100)) == 100

    await until(is_free)


async def test_a_request_that_is_cut_off_while_redis_is_asked_holds_nothing(start: Start) -> None:
    counters = await start()
    limiter = Limiter(counters)
    who = caller(Limits(concurrency=5))
    for _ in range(20):
        task = asyncio.create_task(limiter.admit(who, "chat"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def is_free() -> bool:
        return await remaining(limiter, Limits(concurrency=5)) == 5

    await until(is_free)
    assert counters.held == {}


async def test_a_hung_redis_delays_nobody_for_long_and_limits_hold_when_it_wakes(
    start: Start, server: RedisServer
) -> None:
    counters = await start(timeout_s=TIMEOUT_S)
    limiter = Limiter(counters)
    limits = Limits(concurrency=3, tpd=1000)
    running = await limiter.admit(caller(limits), "chat")
    await running.reserve(400)
    server.hang()
    for _ in range(20):
        began_at = time.monotonic()
        with pytest.raises(QuotaUnavailable) as refused:
            await limiter.admit(caller(limits), "chat")
        assert time.monotonic() - began_at < ROOMY_S
        assert refused.value.retry_after_s == 1
    await asyncio.sleep(TTL_S + 0.3)  # longer than a silent worker is believed to live
    server.wake()

    async def answers() -> bool:
        try:
            return await remaining(limiter, Limits(concurrency=3)) == 2
        except QuotaUnavailable:
            return False

    await until(answers)  # the running request is still held, and nothing of the refused ones
    assert await remaining(limiter, Limits(tpd=1000)) == 600
    await running.settle(100)

    async def is_settled() -> bool:
        return await remaining(limiter, Limits(tpd=1000)) == 900

    await until(is_settled)
    assert await remaining(limiter, Limits(concurrency=3)) == 3


async def test_a_local_share_grants_its_part_and_no_more(start: Start, server: RedisServer) -> None:
    clock = lambda: 1_000_000_020.0  # noqa: E731
    counters = await start(timeout_s=TIMEOUT_S, on_outage="local_share", shares=4, now=clock)
    limiter = Limiter(counters, now=clock)
    who = caller(Limits(rpm=60, tpd=1000))
    for _ in range(4):
        await (await limiter.admit(who, "chat")).settle(0)
    server.hang()
    admitted = [await limiter.admit(who, "chat") for _ in range((60 - 4) // 4)]
    for _ in range(3):
        with pytest.raises(RateLimited) as refused:
            await limiter.admit(who, "chat")
        assert refused.value.headers["x-ratelimit-remaining-requests"] == "0"
    await admitted[0].reserve(250)
    with pytest.raises(RateLimited):
        await admitted[1].reserve(1)
    server.wake()
    for one in admitted:
        await one.settle(7)

    async def counted() -> bool:
        return (await remaining(limiter, Limits(rpm=60)), counters._down) == (60 - 4 - 13, False)

    await until(counted)  # one of the fourteen was given back
    assert await remaining(limiter, Limits(tpd=1000)) == 993


async def test_a_redis_that_forgot_the_day_is_told_by_the_store(
    start: Start, database: Database, settings: Settings
) -> None:
    journal = TokenJournal(settings.data_dir / "elsewhere", database)
    await journal.start()
    counter = Counter("tpd", "key", "key_1", utc_day(time.time()))
    journal.append([Change(counter, used=300)])
    await journal.close()
    limiter = Limiter(await start())
    assert await remaining(limiter, Limits(tpd=1000)) == 700


async def test_the_lines_of_a_killed_worker_reach_redis_once(
    start: Start, settings: Settings, database: Database
) -> None:
    counter = Counter("tpd", "key", "key_1", utc_day(time.time()))
    first = Limiter(await start())
    assert await remaining(first, Limits(tpd=1000)) == 1000  # seeded: the store is not asked again
    folder = settings.data_dir / "quota"
    line = f'"used":[["key","key_1","{counter.period}",40]]}}\n'
    text = f'{{"owner":"own_dead","line":1,{line}{{"owner":"own_dead","line":3,{line}'
    for _ in range(2):
        await asyncio.to_thread((folder / "own_dead.journal").write_text, text, encoding="utf-8")
        await start()

    async def arrived() -> bool:
        return await remaining(first, Limits(tpd=1000)) == 920

    await until(arrived)
    assert not (folder / "own_dead.journal").exists()


async def test_a_worker_starts_without_redis_and_counts_when_it_is_there(
    start: Start, server: RedisServer
) -> None:
    server.hang()
    began_at = time.monotonic()
    limiter = Limiter(await start(timeout_s=TIMEOUT_S))
    assert time.monotonic() - began_at < ROOMY_S
    limits = Limits(concurrency=3)
    with pytest.raises(QuotaUnavailable):
        await limiter.admit(caller(limits), "chat")
    server.wake()

    async def answers() -> bool:
        try:
            return await remaining(limiter, limits) == 3
        except QuotaUnavailable:
            return False

    await until(answers)


async def test_no_request_fails_when_redis_loses_its_data(
    start: Start, server: RedisServer
) -> None:
    limiter = Limiter(await start())
    limits = Limits(tpd=1000, concurrency=30)
    running = await limiter.admit(caller(limits), "chat")
    for _ in range(3):
        assert await asyncio.to_thread(server.command, "FLUSHALL") == "+OK"
        burst = [limiter.admit(caller(limits), "chat") for _ in range(20)]
        for admission in await asyncio.gather(*burst):
            await admission.settle(0)

    async def one_runs() -> bool:
        return await remaining(limiter, Limits(concurrency=30)) == 29

    await until(one_runs)
    await running.settle(0)


async def test_a_redis_that_lost_everything_learns_what_is_held_and_used(
    start: Start, server: RedisServer
) -> None:
    counters = await start()
    limiter = Limiter(counters)
    limits = Limits(tpd=1000, concurrency=2)
    settled = await limiter.admit(caller(limits), "chat")
    await settled.reserve(500)
    await settled.settle(100)
    running = await limiter.admit(caller(limits), "chat")
    await running.reserve(300)
    await counters._journal.store()
    server.kill()
    with pytest.raises(QuotaUnavailable):
        await limiter.admit(caller(limits), "chat")
    server.start()

    async def knows() -> bool:
        try:
            return await remaining(limiter, Limits(tpd=1000)) == 600
        except QuotaUnavailable:
            return False

    await until(knows)
    assert await remaining(limiter, Limits(concurrency=2)) == 1
    await running.settle(250)

    async def is_settled() -> bool:
        return await remaining(limiter, Limits(tpd=1000)) == 650

    await until(is_settled)
