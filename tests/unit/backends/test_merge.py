"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from orchestrator.backends.merge import merged


async def numbers(*values: int) -> AsyncGenerator[int, None]:
    for value in values:
        await asyncio.sleep(0)
        yield value


async def test_every_item_of_every_source_comes_through_in_its_order() -> None:
    seen = [item async for item in merged([numbers(1, 2, 3), numbers(10, 20)])]
    assert sorted(seen) == [1, 2, 3, 10, 20]
    assert [item for item in seen if item < 10] == [1, 2, 3]


async def test_the_first_error_is_raised_and_ends_the_others() -> None:
    ended = asyncio.Event()

    async def fails() -> AsyncGenerator[int, None]:
        yield 1
        raise RuntimeError("broken")

    async def waits() -> AsyncGenerator[int, None]:
        try:
            yield 2
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(RuntimeError, match="broken"):
        async for _ in merged([waits(), fails()]):
            pass
    assert ended.is_set()


async def test_closing_early_ends_the_sources_before_it_returns() -> None:
    ended: list[int] = []

    async def endless(name: int) -> AsyncGenerator[int, None]:
        try:
            while True:
                await asyncio.sleep(0)
                yield name
        finally:
            ended.append(name)

    stream = merged([endless(1), endless(2)])
    await anext(stream)
    await stream.aclose()
    assert sorted(ended) == [1, 2]
