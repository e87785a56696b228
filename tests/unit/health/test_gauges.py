"""Numbers that are looked up: models, store, Triton, caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.triton.placement import single
from orchestrator.contract.catalogue import Catalogue, EngineRecipe, Model
from orchestrator.health.gauges import observe
from orchestrator.models.hosted import Deployments
from orchestrator.supervisor.state import State, run_folder, write_state
from orchestrator.telemetry.instruments import Registry, Tally
from orchestrator.triton.client import TritonClient, TritonEndpoint

CHAT = Model("acme/chat", "chat", "generate", 64, EngineRecipe("-"))


def values(registry: Registry) -> dict[str, dict[tuple[str, ...], float]]:
    return {
        family.spec.name.removeprefix("orchestrator."): {
            one.labels: one.value for one in family.series
        }
        for family in registry.collect()
    }


@pytest.mark.parametrize("trouble", ["", "the database does not answer"])
async def test_everything_is_told_as_it_is_when_somebody_asks(tmp_path: Path, trouble: str) -> None:
    client = TritonClient(TritonEndpoint("unix:/nonexistent"))
    engines = single(client)
    deployments = Deployments(Catalogue((CHAT,)), tmp_path, engines, interval_s=1)
    registry, tally = Registry(), Tally()
    observe(
        registry,
        deployments=deployments,
        engines=engines,
        data_dir=tmp_path,
        problems=(list, lambda: [trouble] if trouble else []),
        caches={"keys": tally},
    )
    told = values(registry)
    assert told["model.info"] == {("acme/chat", "generate", ""): 1}
    assert told["model.ready"] == {("acme/chat",): 0}
    assert told["store.up"] == {(): 0.0 if trouble else 1.0}
    # A Triton of somebody else's is not ours to tell of, nor an engine that never answered.
    assert told["triton.up"] == told["triton.restarts"] == told["engine.silence"] == {}
    deployments.all[0].placement.replicas[0].admit()
    tally.hits, tally.misses = 5, 2
    run_folder(tmp_path).mkdir(parents=True)
    write_state(tmp_path, State("down", restarts=3))
    told = values(registry)
    assert told["model.ready"] == {("acme/chat",): 1}
    assert told["cache.lookups"] == {("keys", "hit"): 5, ("keys", "miss"): 2}
    assert told["triton.up"] == {(): 0}
    assert told["triton.restarts"] == {(): 3}
    write_state(tmp_path, State("ready", restarts=3))
    assert values(registry)["triton.up"] == {(): 1}
    await client.close()
