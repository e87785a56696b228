"""Places shared among owners: who gets one, and who does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from orchestrator.core.turns import NoTurnError, Turns

LONG_S = 60


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Crowd:
    """Owners that want a place each and keep it until they are let go."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.inside: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.leaves: dict[str, asyncio.Event] = {}

    async def come(self, *names: str) -> None:
        for name in names:
            self.leaves[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._stay(name))
        await _settled()

    async def leave(self, name: str) -> None:
        self.leaves[name].set()
        await _settled()

    async def _stay(self, name: str) -> None:
        async with self.turns.turn(name[0], LONG_S):
            self.inside.append(name)
            await self.leaves[name].wait()
            self.inside.remove(name)

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


NewCrowd = Callable[[Turns], Crowd]


@pytest_asyncio.fixture
async def new_crowd() -> AsyncIterator[NewCrowd]:
    made = []

    def new(turns: Turns) -> Crowd:
        made.append(Crowd(turns))
        return made[-1]

    yield new
    for crowd in made:
        await crowd.close()


async def test_one_owner_never_has_all_places(new_crowd: NewCrowd) -> None:
    crowd = new_crowd(Turns(3, per_owner=2, most_waiting=10))
    await crowd.come("a1", "a2", "a3", "a4")
    assert crowd.inside == ["a1", "a2"]
    await crowd.come("b1")
    assert crowd.inside == ["a1", "a2", "b1"]
    await crowd.leave("a1")
    assert crowd.inside == ["a2", "b1", "a3"]


async def test_owners_come_round_in_turn_and_each_owners_first_comes_first(
    new_crowd: NewCrowd,
) -> None:
    crowd = new_crowd(Turns(1, per_owner=1, most_waiting=10))
    await crowd.come("x1", "a1", "a2", "a3", "b1", "c1", "b2")
    order = []
    while crowd.inside:
        order.append(crowd.inside[0])
        await crowd.leave(crowd.inside[0])
    assert order == ["x1", "a1", "b1", "c1", "a2", "b2", "a3"]


async def test_too_many_of_one_owner_are_refused_and_no_one_elses(new_crowd: NewCrowd) -> None:
    turns = Turns(2, per_owner=1, most_waiting=2)
    crowd = new_crowd(turns)
    await crowd.come("a1", "a2", "a3")
    with pytest.raises(NoTurnError, match="2 requests of one tenant wait already"):
        async with turns.turn("a", LONG_S):
            pass
    async with turns.turn("b", LONG_S):
        pass


async def test_a_wait_that_is_too_long_or_cancelled_leaves_no_trace(new_crowd: NewCrowd) -> None:
    turns = Turns(1, per_owner=1, most_waiting=10)
    crowd = new_crowd(turns)
    await crowd.come("a1", "b1", "c1")
    with pytest.raises(NoTurnError, match=r"within 0\.01 s"):
        async with turns.turn("a", 0.01):
            pass
    crowd.tasks["b1"].cancel()
    await _settled()
    await crowd.leave("a1")
    assert crowd.inside == ["c1"]
    await crowd.leave("c1")
    assert turns._waiting == {}
    assert turns._held == {}
    assert turns._free == 1


async def test_a_place_that_is_given_to_one_who_is_just_cancelled_goes_to_the_next(
    new_crowd: NewCrowd,
) -> None:
    turns = Turns(1, per_owner=1, most_waiting=10)
    crowd = new_crowd(turns)
    await crowd.come("a1", "b1", "c1")
    crowd.leaves["a1"].set()
    # One turn of the loop for the one that leaves: its place is b1's, who has not noticed yet.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert crowd.inside == []
    crowd.tasks["b1"].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await crowd.tasks["b1"]
    await _settled()
    assert crowd.inside == ["c1"]
