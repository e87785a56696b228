"""Values that are read at each scrape: models, store, Triton, caches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.backends.triton.placement import Placements
from orchestrator.models.hosted import Deployments
from orchestrator.supervisor.state import read_state
from orchestrator.telemetry import specs
from orchestrator.telemetry.instruments import Observed, Registry, Tally

Problems = Callable[[], Sequence[str]]


def observe(
    registry: Registry,
    *,
    deployments: Deployments,
    engines: Placements,
    data_dir: Path,
    problems: Sequence[Problems],
    caches: Mapping[str, Tally],
) -> None:
    """Adds them to `registry`. The store counts as down while one of `problems` reports any."""
    registry.observe(specs.MODEL_INFO, lambda: _model_infos(deployments))
    registry.observe(specs.MODEL_READY, lambda: _model_states(deployments))
    registry.observe(specs.ENGINE_SILENCE, lambda: _silences(deployments, engines))
    registry.observe(
        specs.STORE_UP, lambda: [((), 0.0 if any(look() for look in problems) else 1.0)]
    )
    registry.observe(specs.TRITON_UP, lambda: _triton_up(data_dir))
    registry.observe(specs.TRITON_RESTARTS, lambda: _triton_restarts(data_dir))
    registry.observe(specs.CACHE_LOOKUPS, lambda: _lookups(caches))


def _model_infos(deployments: Deployments) -> Observed:
    for deployment in deployments.all:
        model = deployment.model
        engine = deployment.served.manifest.target if deployment.served is not None else ""
        yield (model.id, model.task, engine), 1.0


def _model_states(deployments: Deployments) -> Observed:
    for deployment in deployments.all:
        yield (deployment.model.id,), float(deployment.ready)


def _silences(deployments: Deployments, engines: Placements) -> Observed:
    """Yields the time since the last answer of each model that has answered at all."""
    now = time.monotonic()
    for deployment in deployments.all:
        model = deployment.model
        if answered_at := engines.last_answer_at(model.name):
            yield (model.id,), now - answered_at


def _triton_up(data_dir: Path) -> Observed:
    """Yields whether our Triton is up; nothing if we run none."""
    if (state := read_state(data_dir)) is not None:
        yield (), float(state.phase == "ready")


def _triton_restarts(data_dir: Path) -> Observed:
    if (state := read_state(data_dir)) is not None:
        yield (), float(state.restarts)


def _lookups(caches: Mapping[str, Tally]) -> Observed:
    for cache, tally in caches.items():
        yield (cache, "hit"), float(tally.hits)
        yield (cache, "miss"), float(tally.misses)
