"""What is counted, what is refused, what a refusal costs, and what the caller is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from orchestrator.core.errors import RateLimited
from orchestrator.core.limits import LimitHit, Limits
from orchestrator.quota import NOTHING_TAKEN
from orchestrator.quota.limiter import Limiter
from orchestrator.quota.memory import MemoryCounters
from orchestrator.quota.token_journal import TokenJournal
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from tests.unit.quota.clock import MORNING, Clock, caller

MINUTE_END = 1_779_715_440
MIDNIGHT = 1_779_753_600


@pytest_asyncio.fixture
async def counters(
    settings: Settings, database: Database, clock: Clock
) -> AsyncIterator[MemoryCounters]:
    journal = TokenJournal(settings.data_dir / "quota", database, now=clock)
    made = MemoryCounters(journal, now=clock)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def limiter(counters: MemoryCounters, clock: Clock) -> Limiter:
    return Limiter(counters, now=clock)


async def test_a_caller_without_limits_is_not_counted(limiter: Limiter) -> None:
    assert await limiter.admit(caller(), "chat") is NOTHING_TAKEN
    assert NOTHING_TAKEN.headers == {}


async def test_exactly_the_limit_is_admitted_in_a_minute(limiter: Limiter, clock: Clock) -> None:
    who = caller(Limits(rpm=60))
    done = await asyncio.gather(
        *(limiter.admit(who, "chat") for _ in range(64)), return_exceptions=True
    )
    assert sum(isinstance(one, RateLimited) for one in done) == 4
    clock.at = MINUTE_END
    await limiter.admit(who, "chat")


async def test_a_refusal_says_which_limit_and_until_when(limiter: Limiter) -> None:
    who = caller(Limits(rpm=1))
    await limiter.admit(who, "chat")
    with pytest.raises(RateLimited) as refused:
        await limiter.admit(who, "chat")
    assert refused.value.hit == LimitHit("key", "rpm", 1, 0, MINUTE_END)
    assert refused.value.retry_after_s == pytest.approx(8)
    assert refused.value.retryable is None
    assert refused.value.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.value.message == (
        "The key's limit of 1 requests a minute is reached; it resets at 13:24:00 UTC."
    )


async def test_images_have_a_bucket_of_their_own(limiter: Limiter) -> None:
    who = caller(Limits(rpm=1, images_rpm=2))
    await limiter.admit(who, "chat")
    image = await limiter.admit(who, "images")
    assert image.headers["x-ratelimit-limit-requests"] == "2"
    assert image.headers["x-ratelimit-remaining-requests"] == "1"


async def test_key_and_tenant_must_both_have_room_and_a_refusal_costs_neither(
    limiter: Limiter,
) -> None:
    tenant = Limits(rpm=2)
    first, second = caller(Limits(rpm=5), tenant), caller(Limits(rpm=1), tenant, key_id="key_2")
    await limiter.admit(second, "chat")
    for _ in range(5):
        with pytest.raises(RateLimited) as refused:
            await limiter.admit(second, "chat")
        assert refused.value.hit is not None
        assert refused.value.hit.scope == "key"
    await limiter.admit(first, "chat")  # the tenant's second: refusals took nothing of it
    with pytest.raises(RateLimited) as refused:
        await limiter.admit(first, "chat")
    assert refused.value.hit == LimitHit("tenant", "rpm", 2, 0, MINUTE_END)


async def test_requests_at_the_same_time_make_room_when_they_end(limiter: Limiter) -> None:
    who = caller(Limits(concurrency=1))
    running = await limiter.admit(who, "chat")
    with pytest.raises(RateLimited) as refused:
        await limiter.admit(who, "chat")
    assert refused.value.hit is not None
    assert refused.value.hit.kind == "concurrency"
    await running.settle(5)
    await limiter.admit(who, "chat")


async def test_several_requests_are_admitted_together_or_not_at_all(
    limiter: Limiter, counters: MemoryCounters
) -> None:
    tenant = Limits(rpm=9, concurrency=3)
    who = caller(Limits(rpm=4, tpd=100), tenant)
    with pytest.raises(RateLimited) as refused:
        await limiter.admit(who, "chat", 4)
    assert refused.value.hit == LimitHit("tenant", "concurrency", 3, 3, int(MORNING) + 1)
    assert refused.value.message == (
        "The call counts as 4 requests, and 3 of the tenant's 3 requests at the same time are left."
    )
    # It will not fit later either.
    assert refused.value.retryable is False
    assert not counters.held
    admission = await limiter.admit(who, "chat", 3)
    assert admission.headers["x-ratelimit-remaining-requests"] == "1"
    with pytest.raises(RateLimited) as refused:
        await limiter.admit(who, "chat", 2)
    assert refused.value.retryable is None
    assert "1 of the key's 4 requests a minute are left" in refused.value.message
    await admission.cancel()
    assert not counters.held
    assert (await limiter.admit(who, "chat", 3)).headers["x-ratelimit-remaining-requests"] == "1"


async def test_parts_of_an_admission_end_one_by_one(
    limiter: Limiter, counters: MemoryCounters
) -> None:
    who = caller(Limits(rpm=9, concurrency=3, tpd=100))
    admission = await limiter.admit(who, "chat", 3)
    admission.begin()
    await admission.reserve(60)
    parts = admission.split([10, 20, 30])
    await admission.cancel()
    assert sorted(counters.held.values()) == [3, 60]
    await parts[0].settle(4)
    await parts[0].settle(4)
    assert sorted(counters.held.values()) == [2, 50]
    await parts[1].settle(0)
    await parts[2].cancel()
    assert not counters.held
    again = await limiter.admit(who, "chat")
    assert again.headers["x-ratelimit-remaining-requests"] == "5"
    assert again.headers["x-ratelimit-remaining-tokens"] == "96"


async def test_a_cancelled_request_is_given_back(limiter: Limiter) -> None:
    who = caller(Limits(rpm=1, tpd=100))
    admission = await limiter.admit(who, "chat")
    await admission.reserve(100)
    await admission.cancel()
    await admission.cancel()
    again = await limiter.admit(who, "chat")
    await again.reserve(100)


async def test_tokens_are_reserved_at_their_most_and_settled_to_what_was_used(
    limiter: Limiter, counters: MemoryCounters
) -> None:
    who = caller(Limits(tpd=100))
    first = await limiter.admit(who, "chat")
    assert first.headers["x-ratelimit-remaining-tokens"] == "100"
    await first.reserve(70)
    assert first.headers["x-ratelimit-remaining-tokens"] == "30"
    second = await limiter.admit(who, "chat")
    with pytest.raises(RateLimited) as refused:
        await second.reserve(31)
    assert refused.value.hit == LimitHit("key", "tpd", 100, 30, MIDNIGHT)
    assert refused.value.retryable is False
    assert refused.value.retry_after_s == MIDNIGHT - MORNING
    await first.settle(10)
    await first.settle(99)  # twice is once
    assert counters.held == {}
    third = await limiter.admit(who, "chat")
    assert third.headers["x-ratelimit-remaining-tokens"] == "90"


async def test_a_request_refused_for_its_tokens_gives_its_place_in_the_minute_back(
    limiter: Limiter,
) -> None:
    who = caller(Limits(rpm=1, tpd=10))
    for _ in range(3):
        admission = await limiter.admit(who, "chat")
        with pytest.raises(RateLimited) as refused:
            await admission.reserve(11)
        assert refused.value.headers["x-ratelimit-remaining-requests"] == "1"


async def test_more_than_was_reserved_is_booked_too(limiter: Limiter) -> None:
    who = caller(Limits(tpd=100))
    admission = await limiter.admit(who, "chat")
    await admission.reserve(10)
    await admission.settle(150)
    outlook = await limiter.outlook(who, "chat", 1)
    assert outlook.refusal is not None
    assert outlook.refusal.hit == LimitHit("key", "tpd", 100, 0, MIDNIGHT)


async def test_a_request_over_midnight_is_charged_to_the_day_it_was_reserved_on(
    limiter: Limiter, clock: Clock
) -> None:
    who = caller(Limits(tpd=100))
    clock.at = MIDNIGHT - 1
    admission = await limiter.admit(who, "chat")
    await admission.reserve(100)
    clock.at = MIDNIGHT + 1
    fresh = await limiter.admit(who, "chat")
    assert fresh.headers["x-ratelimit-remaining-tokens"] == "100"
    await admission.settle(60)
    again = await limiter.admit(who, "chat")
    assert again.headers["x-ratelimit-remaining-tokens"] == "100"
    clock.at = MIDNIGHT - 1
    late = await limiter.admit(who, "chat")
    assert late.headers["x-ratelimit-remaining-tokens"] == "40"


async def test_headers_are_those_of_the_tighter_limit(limiter: Limiter) -> None:
    who = caller(Limits(rpm=60, tpd=1000), Limits(rpm=5, tpd=5000))
    admission = await limiter.admit(who, "chat")
    await admission.reserve(2)
    assert admission.headers == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "4",
        "x-ratelimit-reset-requests": str(MINUTE_END),
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "998",
        "x-ratelimit-reset-tokens": str(MIDNIGHT),
        "ratelimit-policy": '"rpm";q=5;w=60, "tpd";q=1000;w=86400',
        "ratelimit": '"rpm";r=4;t=8, "tpd";r=998;t=38168',
    }


async def test_what_a_caller_may_is_known_anew_in_every_minute(
    limiter: Limiter, counters: MemoryCounters, clock: Clock
) -> None:
    who = caller(Limits(rpm=1, tpd=100))
    late = await limiter.admit(who, "chat")
    clock.at = MINUTE_END
    fresh = await limiter.admit(who, "chat")
    assert fresh.headers["x-ratelimit-reset-requests"] == str(MINUTE_END + 60)
    with pytest.raises(RateLimited):
        await limiter.admit(who, "chat")
    await late.cancel()  # goes to the minute that is over
    with pytest.raises(RateLimited):
        await limiter.admit(who, "chat")
    clock.at = MIDNIGHT
    await fresh.reserve(70)
    assert fresh.headers["x-ratelimit-remaining-tokens"] == "30"
    assert fresh.headers["x-ratelimit-reset-tokens"] == str(MIDNIGHT + 86_400)


async def test_no_thread_looks_at_the_counters_of_minutes(limiter: Limiter) -> None:
    def timers() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if isinstance(one, threading.Timer)]

    for one in timers():
        one.join(1)
    await limiter.admit(caller(Limits(rpm=5)), "chat")
    assert not timers()


async def test_callers_of_one_key_are_told_apart_by_their_limits(limiter: Limiter) -> None:
    first = await limiter.admit(caller(Limits(rpm=5)), "chat")
    changed = await limiter.admit(caller(Limits(rpm=9)), "chat")
    assert first.headers["x-ratelimit-limit-requests"] == "5"
    assert changed.headers["x-ratelimit-limit-requests"] == "9"
    assert changed.headers["x-ratelimit-remaining-requests"] == "7"


async def test_requests_at_the_same_time_are_to_be_asked_for_again_in_a_second(
    limiter: Limiter, clock: Clock
) -> None:
    who = caller(Limits(concurrency=1))
    await limiter.admit(who, "chat")
    clock.at = MORNING + 3.7
    with pytest.raises(RateLimited) as refused:
        await limiter.admit(who, "chat")
    assert refused.value.hit == LimitHit("key", "concurrency", 1, 0, int(MORNING) + 4)


async def test_the_outlook_names_the_limit_that_bites_first_and_spends_nothing(
    limiter: Limiter,
) -> None:
    who = caller(Limits(rpm=2, tpd=1000))
    for _ in range(5):
        outlook = await limiter.outlook(who, "chat", 10)
        assert outlook.refusal is None
        assert outlook.first == LimitHit("key", "rpm", 2, 1, MINUTE_END)
    near = await limiter.outlook(who, "chat", 990)
    assert near.first == LimitHit("key", "tpd", 1000, 10, MIDNIGHT)


@pytest.mark.parametrize("tokens", [5, 11])
async def test_the_outlook_refuses_exactly_as_the_request_would_be(
    limiter: Limiter, tokens: int
) -> None:
    who = caller(Limits(rpm=1, tpd=10))
    if tokens == 5:
        await limiter.admit(who, "chat")
    outlook = await limiter.outlook(who, "chat", tokens)
    with pytest.raises(RateLimited) as refused:
        await (await limiter.admit(who, "chat")).reserve(tokens)
    assert outlook.refusal is not None
    assert outlook.refusal.message == refused.value.message
    assert outlook.refusal.hit == refused.value.hit == outlook.first


async def test_a_request_whose_prompt_was_worked_on_keeps_its_place_in_the_minute(
    limiter: Limiter,
) -> None:
    for end in ("cancel", "reserve"):
        who = caller(Limits(rpm=1, tpd=10, concurrency=1), key_id=f"key_{end}")
        admission = await limiter.admit(who, "chat")
        admission.begin()
        if end == "cancel":
            await admission.cancel()
        else:
            with pytest.raises(RateLimited):
                await admission.reserve(11)
        with pytest.raises(RateLimited) as refused:
            await limiter.admit(who, "chat")
        assert refused.value.hit is not None
        assert refused.value.hit.kind == "rpm"


async def test_what_is_surely_too_much_is_known_without_asking(limiter: Limiter) -> None:
    who = caller(Limits(rpm=1, tpd=100), Limits(tpd=70))
    admission = await limiter.admit(who, "chat")
    admission.check(70)
    with pytest.raises(RateLimited) as refused:
        admission.check(71)
    assert refused.value.hit == LimitHit("tenant", "tpd", 70, 70, MIDNIGHT)
    await admission.cancel()
    await limiter.admit(who, "chat")


async def test_calls_that_count_tokens_have_a_minute_of_their_own(limiter: Limiter) -> None:
    who = caller(Limits(rpm=1, tpd=1, concurrency=1))
    counting = [await limiter.admit(who, "count") for _ in range(10)]
    for admission in counting:
        admission.begin()
    assert (await limiter.outlook(who, "count", 1)).refusal is not None
    with pytest.raises(RateLimited):
        await limiter.admit(who, "count")
    assert (await limiter.outlook(who, "chat", 1)).refusal is None
    await (await limiter.admit(who, "chat")).reserve(1)
