"""What we rely on in the `limits` library, and why its strategies are not used for it."""

from __future__ import annotations

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter


async def test_memory_adds_and_takes_back() -> None:
    storage = MemoryStorage()
    assert await storage.incr("minute", 60, 3) == 3
    assert await storage.incr("minute", 60, -2) == 1
    assert await storage.get("minute") == 1
    assert await storage.get("another") == 0


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
