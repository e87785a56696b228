"""Writers that share transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from orchestrator.responses.batches import Batches


@dataclass
class Writer:
    """Writes when it may, and fails when it should."""

    may_write: asyncio.Event = field(default_factory=asyncio.Event)
    batches: list[list[int]] = field(default_factory=list)
    fault: Exception | None = None

    async def write(self, batch: Sequence[int]) -> None:
        await self.may_write.wait()
        self.batches.append(list(batch))
        if self.fault is not None:
            raise self.fault


async def test_what_comes_during_a_write_is_written_together() -> None:
    writer = Writer()
    batches = Batches(writer.write)
    first = asyncio.create_task(batches.add(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(batches.add(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    writer.may_write.set()
    await asyncio.gather(first, *others)
    assert writer.batches == [[1], [2, 3, 4]]
    await batches.add(5)
    assert writer.batches[-1] == [5]


async def test_a_fault_is_told_to_those_of_its_batch_and_to_nobody_else() -> None:
    writer = Writer(fault=ValueError("the disk is full"))
    writer.may_write.set()
    batches = Batches(writer.write)
    results = await asyncio.gather(batches.add(1), batches.add(2), return_exceptions=True)
    assert list(results) == [writer.fault] * 2
    writer.fault = None
    await batches.add(3)
    assert writer.batches == [[1, 2], [3]]


async def test_what_nobody_waits_for_any_more_is_written_all_the_same() -> None:
    writer = Writer()
    batches = Batches(writer.write)
    waiting = asyncio.create_task(batches.add(1))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    writer.may_write.set()
    await batches.close()
    assert writer.batches == [[1]]


async def test_closing_what_was_never_used_is_nothing() -> None:
    await Batches(Writer().write).close()
