"""Who waits for a model that is being restarted, for how long, and how many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from orchestrator.backends.triton.comeback import Comeback, WaitingRoom
from orchestrator.backends.triton.placement import Placement, Rules, Server
from orchestrator.core.errors import ModelUnavailable, Overloaded
from orchestrator.triton.client import TritonClient, TritonEndpoint

WAIT_S = 30.0
DIED = ModelUnavailable("died")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[Server]:
    client = TritonClient(TritonEndpoint("unix:/nonexistent"))
    yield Server("a", client)
    await client.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def placement(server: Server, clock: Clock) -> Placement:
    return Placement("chat", [server], Rules(wait_s=WAIT_S), clock)


def lose(placement: Placement) -> None:
    for replica in placement.replicas:
        replica.admit()
        replica.eject()


def admit(placement: Placement) -> None:
    for replica in placement.replicas:
        replica.admit()


async def waiting(room: WaitingRoom, placement: Placement, owner: str = "") -> asyncio.Task[None]:
    """A call that waits by now."""
    before = room.count
    task = asyncio.create_task(Comeback(placement, room, owner).wait())
    while room.count == before and not task.done():  # noqa: ASYNC110  # nothing tells us of it
        await asyncio.sleep(0)
    return task


async def test_a_call_waits_until_the_lost_model_is_admitted(placement: Placement) -> None:
    room = WaitingRoom(4)
    lose(placement)
    assert placement.awaited_s == WAIT_S
    calls = [await waiting(room, placement) for _ in range(2)]
    assert room.count == 2
    assert placement.is_waited_for
    admit(placement)
    await asyncio.gather(*calls)
    assert room.count == 0
    assert not placement.awaited_s


async def test_a_model_that_was_never_served_is_not_waited_for(placement: Placement) -> None:
    assert Comeback(placement, WaitingRoom(4), "").is_served
    with pytest.raises(ModelUnavailable):
        await WaitingRoom(4).wait(placement, "")


async def test_a_model_that_came_back_wrong_is_not_waited_for(placement: Placement) -> None:
    room = WaitingRoom(4)
    lose(placement)
    call = await waiting(room, placement)
    placement.replicas[0].fault = "self-test: another token"
    assert not placement.awaited_s
    with pytest.raises(ModelUnavailable):
        await call
    assert room.count == 0


async def test_an_outage_is_waited_out_for_so_long_and_no_longer(
    placement: Placement, clock: Clock
) -> None:
    room = WaitingRoom(4)
    lose(placement)
    clock.now += WAIT_S - 1
    call = await waiting(room, placement)
    assert not call.done()
    clock.now += 1
    with pytest.raises(ModelUnavailable) as caught:
        await call
    assert caught.value.retry_after_s
    # Those that come later are told at once.
    with pytest.raises(ModelUnavailable):
        await room.wait(placement, "")


async def test_a_tenant_may_have_half_of_those_that_wait(placement: Placement) -> None:
    room = WaitingRoom(4)
    lose(placement)
    own = [await waiting(room, placement, "a") for _ in range(2)]
    with pytest.raises(ModelUnavailable):
        await room.wait(placement, "a")
    others = [await waiting(room, placement, owner) for owner in "bc"]
    with pytest.raises(ModelUnavailable):
        await room.wait(placement, "d")
    # Who leaves makes room for another.
    own[0].cancel()
    await asyncio.wait([own[0]])
    calls = [own[1], *others, await waiting(room, placement, "d")]
    admit(placement)
    await asyncio.gather(*calls)
    assert room.count == 0


async def test_a_call_that_met_an_outage_has_it_looked_at_and_waits_for_its_end(
    placement: Placement,
) -> None:
    room, doubts = WaitingRoom(4), asyncio.Event()
    placement.replicas[0].on_doubt = doubts.set
    admit(placement)
    comeback = Comeback(placement, room, "")
    comeback.begin()
    call = asyncio.create_task(comeback.wait(DIED))
    await doubts.wait()
    assert not call.done()
    placement.replicas[0].eject()
    admit(placement)
    await call


async def test_an_outage_that_has_ended_meanwhile_is_not_waited_for(placement: Placement) -> None:
    admit(placement)
    comeback = Comeback(placement, WaitingRoom(4), "")
    comeback.begin()
    lose(placement)
    admit(placement)
    await comeback.wait(DIED)


async def test_an_outage_that_is_none_is_told_as_it_was_met(placement: Placement) -> None:
    admit(placement)
    comeback = Comeback(placement, WaitingRoom(4), "")
    with pytest.raises(ModelUnavailable) as caught:
        await comeback.wait(DIED)
    assert caught.value is DIED


def test_only_an_engine_that_is_away_is_waited_for(server: Server, placement: Placement) -> None:
    assert Comeback(placement, WaitingRoom(4), "").is_open_after(DIED)
    assert not Comeback(placement, WaitingRoom(4), "").is_open_after(Overloaded("full"))
    assert not Comeback(placement, WaitingRoom(0), "").is_open_after(DIED)
    never = Placement("chat", [server], Rules())
    assert not Comeback(never, WaitingRoom(4), "").is_open_after(DIED)
