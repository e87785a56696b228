"""`make bench`: one table with everything that is to be shown, written down as JSON and drawn."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from orchestrator.settings import PROJECT_ROOT
from tests.bench import (
    added,
    environment,
    field,
    gateways,
    growth,
    processes,
    repository,
    rows,
    scaling,
    steady,
)
from tests.bench.gateways import Engine, Target
from tests.bench.repository import Repository
from tests.bench.rows import Row
from tests.otlp_receiver import receiving

RESULTS = PROJECT_ROOT / "bench-results"
MODELS = PROJECT_ROOT / "model_repository"
IDLE_S = 5.0
NOTE = (
    "shares of a core: of ours, while ours was measured; (full) is what could do no more. ≥ marks a"
    " peer that was held up by the engine or the generator."
)


async def report(folder: Path, *, quick: bool = False) -> int:
    """Measures, prints and writes everything; returns how many rows are not met."""
    missing = environment.make()
    repetitions = 3 if quick else 5
    (folder / "demo").mkdir()
    with gateways.engine(folder) as engine:
        made = repository.write(folder / "repository")
        found, idle = await _with_peers(engine, made, folder, repetitions, missing, quick=quick)
        found += await _alone(engine, made, folder, repetitions, quick=quick)
        scaled = await scaling.measure(engine, made, folder, requests=400 if quick else 2000)
        found += rows.of_scaling(scaled)
    found.append(rows.of_demo(await added.demo(folder / "demo", MODELS, MODELS / "catalogue.toml")))
    sys.stdout.write(rows.markdown(found) + "\n")
    for line in (*missing, idle, NOTE):
        sys.stdout.write(line + "\n")
    path = _write(found, missing, idle)
    sys.stdout.write(f"written to {path.relative_to(PROJECT_ROOT)}; {_draw(path)}\n")
    return sum(row.met is False for row in found)


async def _with_peers(
    engine: Engine,
    made: Repository,
    folder: Path,
    repetitions: int,
    missing: list[str],
    *,
    quick: bool,
) -> tuple[list[Row], str]:
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        targets, not_there = field.start(stack, engine, made, folder, receiver.url)
        missing += [f"{name}: {why}" for name, why in not_there.items()]
        idle = _idle(targets)
        found = []
        for case in field.cases(quick=quick):
            readings = await field.measure(case, targets, engine, repetitions)
            found.append(rows.of_field(case, readings))
        return found, idle


async def _alone(
    engine: Engine, made: Repository, folder: Path, repetitions: int, *, quick: bool
) -> list[Row]:
    found = []
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        target = stack.enter_context(
            gateways.orchestrator(engine, made, folder, collector=receiver.url)
        )
        sys.stderr.write("measuring: what is added to the engine\n")
        pair = added.Pair(target, engine, made)
        try:
            found += rows.of_added(await pair.measure(repetitions))
        finally:
            await pair.close()
        sys.stderr.write("measuring: growth\n")
        found += [rows.of_growth(one) for one in await growth.measure(target, repetitions)]
    with gateways.orchestrator(engine, made, folder) as target:
        sys.stderr.write("measuring: memory\n")
        sizes = (2000, 200) if quick else (10_000, 1000)
        found += rows.of_memory(await steady.measure(target, requests=sizes[0], streams=sizes[1]))
    return found


def _idle(targets: Sequence[Target]) -> str:
    """What each of them takes of a core without any request."""
    before = [processes.cost(target.pid).cpu_s for target in targets]
    time.sleep(IDLE_S)
    shares = [
        f"{target.name} {(processes.cost(target.pid).cpu_s - earlier) / IDLE_S:.1%}"
        for target, earlier in zip(targets, before, strict=True)
    ]
    return "without requests, of a core: " + ", ".join(shares)


def _write(found: Sequence[Row], missing: Sequence[str], idle: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    document: dict[str, Any] = {
        "machine": {
            "cores": psutil.cpu_count(),
            "load": psutil.getloadavg(),
            "python": platform.python_version(),
        },
        "missing": list(missing),
        "idle": idle,
        "rows": [asdict(row) for row in found],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def _draw(path: Path) -> str:
    picture = path.with_suffix(".png")
    plot = str(Path(__file__).with_name("plot.py"))
    try:
        command = [str(environment.python()), plot, str(path), str(picture)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not drawn: {getattr(error, 'stderr', None) or error}"
    return f"drawn in {picture.relative_to(PROJECT_ROOT)}"
