"""Large work: whose turn it is, how much at once, and what becomes of it when its caller leaves."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from orchestrator.core import fair_threads
from orchestrator.core.fair_threads import LARGE_BYTES, FairThreads

LONG_S = 60.0


@pytest_asyncio.fixture
async def threads() -> AsyncIterator[FairThreads]:
    made = FairThreads(1, most_running_bytes=100)
    yield made
    await made.close()


class Gate:
    """Work that runs until it is let go."""

    def __init__(self) -> None:
        self.begun, self.let = threading.Event(), threading.Event()

    def work(self) -> str:
        self.begun.set()
        assert self.let.wait(LONG_S)
        return "done"


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not done():  # noqa: ASYNC110  # threads set no event of a loop
            await asyncio.sleep(0.005)


async def test_what_is_returned_and_raised_reaches_the_caller(threads: FairThreads) -> None:
    assert await threads.run("a", 1, lambda: 7) == 7
    with pytest.raises(ValueError, match="no"):
        await threads.run("a", 1, lambda: int("no"))
    assert (threads.running, threads.waiting) == (0, 0)


async def test_tenants_that_wait_take_turns(threads: FairThreads) -> None:
    gate, order = Gate(), []
    first = asyncio.create_task(threads.run("a", 1, gate.work))
    await until(gate.begun.is_set)
    names = ["a1", "a2", "a3", "b1", "c1", "b2"]
    rest = [
        asyncio.create_task(threads.run(name[0], 1, lambda name=name: order.append(name)))  # type: ignore[misc]  # mypy knows no default of a lambda
        for name in names
    ]
    await until(lambda: threads.waiting == len(names))
    gate.let.set()
    await asyncio.gather(first, *rest)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_work_on_more_bytes_than_may_run_waits_unless_it_is_alone() -> None:
    threads = FairThreads(4, most_running_bytes=100)
    gates = [Gate(), Gate(), Gate()]
    sizes = (1000, 60, 50)
    tasks = [
        asyncio.create_task(threads.run("a", size, gate.work))
        for size, gate in zip(sizes, gates, strict=True)
    ]
    await until(gates[0].begun.is_set)
    assert (threads.running, threads.waiting) == (1, 2)
    gates[0].let.set()
    await until(gates[1].begun.is_set)
    assert (threads.running, threads.waiting) == (1, 1)
    gates[1].let.set()
    gates[2].let.set()
    assert await asyncio.gather(*tasks) == ["done"] * 3
    await threads.close()


async def test_work_that_has_not_begun_is_dropped_when_its_caller_leaves(
    threads: FairThreads,
) -> None:
    gate, other = Gate(), Gate()
    first = asyncio.create_task(threads.run("a", 1, gate.work))
    await until(gate.begun.is_set)
    second = asyncio.create_task(threads.run("a", 1, other.work))
    await until(lambda: threads.waiting == 1)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert threads.waiting == 0
    gate.let.set()
    await first
    assert not other.begun.is_set()


async def test_a_caller_that_leaves_is_held_until_its_work_has_ended(threads: FairThreads) -> None:
    gate = Gate()
    task = asyncio.create_task(threads.run("a", 1, gate.work))
    await until(gate.begun.is_set)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    gate.let.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert threads.running == 0


class Large:
    """What work may hold."""


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_of_work_that_has_ended_waits_for_the_collector(
    threads: FairThreads, fails: bool
) -> None:
    gc.collect()
    gc.disable()
    try:
        held = await _large_work(threads, fails=fails)
        await until(lambda: held() is None)
    finally:
        gc.enable()


async def _large_work(threads: FairThreads, *, fails: bool) -> weakref.ref[Large]:
    large = Large()

    def work() -> str:
        name = type(large).__name__
        if fails:
            raise ValueError(name)
        return name

    held = weakref.ref(large)
    try:
        await threads.run("a", 1, work)
    except ValueError:
        assert fails
    return held


async def test_memory_is_returned_once_after_large_work(
    threads: FairThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed: list[str] = []
    monkeypatch.setattr(fair_threads, "TRIM_AFTER_S", 0.05)
    monkeypatch.setattr(
        fair_threads, "trim_memory", lambda: trimmed.append(threading.current_thread().name)
    )
    for _ in range(3):
        await threads.run("a", LARGE_BYTES, lambda: None)
    await threads.run("a", LARGE_BYTES - 1, lambda: None)
    await until(lambda: bool(trimmed))
    assert [name.partition("_")[0] for name in trimmed] == ["prompts"]
