"""Who is chosen among the replicas of a model, and when one is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from orchestrator.backends.triton.placement import (
    Failover,
    Placement,
    Placements,
    Replica,
    Rules,
    Server,
)
from orchestrator.core.errors import ModelUnavailable, Overloaded
from orchestrator.core.request import SamplingParams
from orchestrator.telemetry.calls import Call, enter, leave
from orchestrator.triton.client import TritonClient, TritonEndpoint
from orchestrator.triton.contract import GenerateCall

CONVERSATION = list(range(300))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture(loop_scope="session")
async def servers() -> AsyncIterator[list[Server]]:
    """Three where nobody listens: calls that are begun count until the loop goes on."""
    made = [
        Server(name, TritonClient(TritonEndpoint(f"unix:/nonexistent/{name}"))) for name in "abc"
    ]
    yield made
    for server in made:
        await server.client.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def placement(servers: list[Server], clock: Clock) -> Placement:
    made = Placement("chat", servers, Rules(first_s=1, most_s=30, margin=2), clock)
    for replica in made.replicas:
        replica.admit()
    return made


def busy(replica: Replica, calls: int) -> None:
    for number in range(calls):
        call = GenerateCall(
            "chat", f"busy-{number}", (1,), 1, -1, None, (), SamplingParams(), 0, False
        )
        replica.client.generate(call)


def chosen(placement: Placement, prompt: Sequence[int] = ()) -> Replica:
    found = placement.choose(placement.blocks(prompt, 64) if prompt else ())
    assert found is not None
    return found


async def test_without_a_prompt_the_idlest_is_chosen(placement: Placement) -> None:
    busy(placement.replicas[0], 2)
    busy(placement.replicas[2], 1)
    assert {chosen(placement).name for _ in range(20)} == {"b"}


async def test_a_conversation_stays_where_it_was(placement: Placement) -> None:
    first = chosen(placement, CONVERSATION)
    busy(first, 2)
    for turns in range(1, 6):
        assert chosen(placement, CONVERSATION + [7] * 80 * turns) is first


async def test_a_conversation_leaves_a_server_that_is_too_busy(
    placement: Placement,
) -> None:
    first = chosen(placement, CONVERSATION)
    busy(first, 3)
    second = chosen(placement, CONVERSATION)
    assert second is not first
    # Both know it now; the idler one has it.
    assert chosen(placement, CONVERSATION) is second


async def test_a_conversation_leaves_a_server_that_is_ejected(placement: Placement) -> None:
    first = chosen(placement, CONVERSATION)
    first.eject()
    second = chosen(placement, CONVERSATION)
    assert second is not first
    first.admit()
    assert chosen(placement, [*CONVERSATION, 1]) in (first, second)


async def test_workers_that_know_nothing_of_each_other_agree(
    placement: Placement, servers: list[Server]
) -> None:
    other = Placement("chat", servers, Rules(margin=2))
    for replica in other.replicas:
        replica.admit()
    prompts = [[number] * 100 for number in range(50)]
    ours = [chosen(placement, prompt).name for prompt in prompts]
    assert [chosen(other, prompt).name for prompt in prompts] == ours
    assert set(ours) == {"a", "b", "c"}


async def test_one_that_was_tried_is_not_chosen_again(placement: Placement) -> None:
    tried: list[Replica] = []
    while (replica := placement.choose((), tried)) is not None:
        tried.append(replica)
    assert len(tried) == 3
    assert set(tried) == set(placement.replicas)


async def test_where_none_is_ready_one_is_named_and_no_second(placement: Placement) -> None:
    for replica in placement.replicas:
        replica.eject()
    assert not placement.ready
    assert placement.choose() is placement.replicas[0]
    assert placement.choose((), [placement.replicas[0]]) is None


async def test_each_failure_doubles_the_pause_up_to_the_longest(
    placement: Placement, clock: Clock
) -> None:
    replica = placement.replicas[0]
    pauses = []
    for _ in range(7):
        replica.eject()
        began_at = clock.now
        while not replica.is_due:
            clock.now += 0.5
        pauses.append(clock.now - began_at)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


async def test_one_that_fails_again_soon_after_its_return_waits_longer(
    placement: Placement, clock: Clock
) -> None:
    replica = placement.replicas[0]
    replica.eject()
    clock.now += 1
    replica.admit()
    clock.now += 29
    replica.eject()
    clock.now += 1.5
    assert not replica.is_due
    clock.now += 0.5
    assert replica.is_due
    replica.admit()
    # It stayed for longer than the longest pause: all is forgiven.
    clock.now += 31
    replica.eject()
    clock.now += 1
    assert replica.is_due


async def test_the_only_server_of_a_model_is_never_left_alone(servers: list[Server]) -> None:
    alone = Placement("chat", servers[:1])
    replica = alone.replicas[0]
    replica.admit()
    alone.lost(replica, replica.term)
    assert replica.ready
    replica.eject()
    assert replica.is_due
    assert alone.blocks(CONVERSATION, 64) == ()
    assert alone.choose() is replica
    assert alone.choose((), [replica]) is None


async def test_an_error_of_before_its_return_does_not_eject_it_again(placement: Placement) -> None:
    replica = placement.replicas[0]
    term = replica.term
    placement.lost(replica, term)
    assert not replica.ready
    replica.admit()
    placement.lost(replica, term)
    assert replica.ready
    placement.lost(replica, replica.term)
    assert not replica.ready


async def test_a_request_goes_on_to_every_server_once(placement: Placement) -> None:
    way = Failover(placement, (), "req", timeout_s=60)
    seen = [way.replica]
    way.failed(ModelUnavailable("gone"))
    while way.moves():
        seen.append(way.replica)
        way.failed(ModelUnavailable("gone"))
    assert len(set(seen)) == 3
    assert not placement.ready


async def test_a_server_without_room_is_left_and_not_ejected(placement: Placement) -> None:
    way = Failover(placement, (), "req", timeout_s=60)
    first = way.replica
    way.failed(Overloaded("full"))
    assert way.moves()
    assert way.replica is not first
    assert first.ready


async def test_a_request_whose_time_is_over_does_not_move(placement: Placement) -> None:
    way = Failover(placement, (), "req", timeout_s=0)
    assert not way.moves()


async def test_the_span_of_a_call_tells_the_server(placement: Placement) -> None:
    call = Call()
    call.sample()
    stage = call.engine_stage("chat")
    token = enter(call)
    way = Failover(placement, (), "req", timeout_s=60)
    leave(token)
    assert stage.attributes == {"server.address": way.replica.client.url}
    assert call.server == way.replica.name


async def test_models_run_where_they_are_placed_and_else_on_the_first(
    servers: list[Server],
) -> None:
    placements = Placements(servers, {"chat": ("b", "c")})
    assert [one.name for one in placements.of("chat").replicas] == ["b", "c"]
    assert [one.name for one in placements.of("embed").replicas] == ["a"]
    assert placements.of("chat") is placements.of("chat")
    assert placements.last_answer_at("chat") == 0
