"""How parts make up readiness, and how often they are asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.backends.triton.placement import Placements, Server, single
from orchestrator.contract.catalogue import Catalogue, EngineRecipe, Model
from orchestrator.health.readiness import Look, Part, Readiness, Status, problems_look, triton_looks
from orchestrator.models.hosted import Deployments
from orchestrator.triton.client import TritonClient, TritonEndpoint


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Asked:
    """A part that counts how often it was asked, and answers what it is told to."""

    def __init__(self, status: Status = "ok") -> None:
        self.status = status
        self.times = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self) -> Part:
        self.times += 1
        await self.answers.wait()
        return Part("part", self.status)


def readiness(clock: Clock, **looks: Look) -> Readiness:
    """Over an empty catalogue, whose models are all there."""
    client = TritonClient(TritonEndpoint(url="unix:/nowhere"))
    deployments = Deployments(Catalogue(()), Path("nowhere"), single(client), interval_s=1.0)
    return Readiness(looks, deployments, monotonic=clock)


@pytest.mark.parametrize(
    ("statuses", "together"),
    [
        (("ok", "ok"), "ok"),
        (("ok", "degraded"), "degraded"),
        (("failed", "degraded"), "failed"),
    ],
)
async def test_the_worst_part_counts(statuses: tuple[Status, Status], together: Status) -> None:
    one, other = Asked(statuses[0]), Asked(statuses[1])
    report = await readiness(Clock(), one=one, other=other).report()
    assert report.status == together


async def test_an_answer_is_good_for_a_second_whoever_asks() -> None:
    clock, part = Clock(), Asked()
    ready = readiness(clock, part=part)
    await asyncio.gather(*(ready.report() for _ in range(50)))
    await ready.report()
    assert part.times == 1
    clock.now += 1.0
    part.status = "failed"
    assert (await ready.report()).status == "failed"
    assert part.times == 2


async def test_a_part_that_hangs_is_failed_and_is_not_asked_again_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.health.readiness._TIMEOUT_S", 0.01)
    clock, part = Clock(), Asked()
    ready = readiness(clock, part=part)
    part.answers.clear()
    for _ in range(3):
        report = await ready.report()
        assert report.status == "failed"
        assert report.parts[0].detail == "no answer within 0.01 s"
        clock.now += 2
    assert part.times == 1
    part.answers.set()
    await ready.close()
    assert (await ready.report()).status == "ok"


async def test_who_gives_up_waiting_leaves_the_others_their_answer() -> None:
    clock, part = Clock(), Asked()
    ready = readiness(clock, part=part)
    part.answers.clear()
    impatient, patient = (asyncio.create_task(ready.report()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    part.answers.set()
    assert (await patient).status == "ok"


async def test_problems_of_a_journal_degrade() -> None:
    problems = ["the audit of denials waits for the store"]
    part = await problems_look("audit", lambda: problems)()
    assert part == Part("audit", "degraded", problems[0])
    problems.clear()
    assert (await problems_look("audit", lambda: problems)()).status == "ok"


def placements(tmp_path: Path, *names: str) -> Placements:
    """Servers that are all away, with a model that is placed on every one."""
    servers = [Server(name, TritonClient(TritonEndpoint(f"unix:{tmp_path}/x"))) for name in names]
    return Placements(servers, {"chat": names})


async def test_the_only_triton_is_in_the_way_when_it_is_away_and_one_of_several_is_not(
    tmp_path: Path,
) -> None:
    one, several = placements(tmp_path, "default"), placements(tmp_path, "a", "b")
    parts = [await look() for look in triton_looks(one).values()]
    assert parts == [Part("triton", "failed", "it does not answer")]
    parts = [await look() for look in triton_looks(several).values()]
    assert [(part.name, part.status) for part in parts] == [
        ("triton a", "degraded"),
        ("triton b", "degraded"),
    ]
    await one.close()
    await several.close()


async def test_a_model_tells_which_tritons_do_not_serve_it(tmp_path: Path) -> None:
    placed = placements(tmp_path, "a", "b", "c")
    model = Model("acme/chat", "chat", "generate", 64, EngineRecipe("-"), tritons=("a", "b", "c"))
    deployments = Deployments(Catalogue((model,)), tmp_path, placed, interval_s=1.0)
    clock = Clock()
    ready = Readiness({}, deployments, monotonic=clock)
    report = await ready.report()
    assert (report.status, report.models[0].ready) == ("failed", False)
    first, second, _ = placed.of("chat").replicas
    first.tested = "4 golden prompts"
    first.admit()
    second.fault = "self-test: token 1 of a golden prompt is 5, not 6"
    clock.now += 2
    report = await ready.report()
    assert report.models[0].ready
    assert report.models[0].detail == (
        "self-test: 4 golden prompts; not served by triton b, c; b: " + second.fault
    )
    await placed.close()
