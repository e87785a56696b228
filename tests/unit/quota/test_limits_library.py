"""Why the strategies of the `limits` library are not used."""

from __future__ import annotations

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter


async def test_a_refused_hit_of_a_fixed_window_costs_something() -> None:
    limiter = FixedWindowRateLimiter(MemoryStorage())
    item = RateLimitItemPerMinute(100)
    assert await limiter.hit(item, "key", cost=60)
    assert not await limiter.hit(item, "key", cost=60)
    assert not await limiter.hit(item, "key", cost=40)


async def test_a_window_of_the_library_forgets_when_its_limit_is_changed() -> None:
    limiter = FixedWindowRateLimiter(MemoryStorage())
    assert await limiter.hit(RateLimitItemPerMinute(1), "key")
    assert await limiter.hit(RateLimitItemPerMinute(2), "key")
    assert await limiter.hit(RateLimitItemPerMinute(2), "key")
