"""Tries a new engine on a separate Triton before it is put into service.

For engines that only run inside the GPU image, whose server and backends are under /opt.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from build_engines.golden.replay import Player
from build_engines.golden.selftest import (
    SelfTestError,
    embedding_document,
    generation_document,
    golden_inputs,
)
from build_engines.host.program import started
from build_engines.repository.versions import CONFIG_FILE, MANIFEST_FILE
from build_engines.targets.target import Workplace
from orchestrator.contract.catalogue import Model

TRITON = Path("/opt/tritonserver")
_OWN_BACKENDS = Path(__file__).resolve().parents[2] / "model_repository" / "backends"
_START_TIMEOUT_S = 900.0
_POLL_S = 0.5


def try_on_triton(model: Model, place: Workplace, triton: Path = TRITON) -> Mapping[str, Any]:
    """Returns `selftest.json` from a real server, installed in `triton`. Raises: SelfTestError."""
    manifest = json.loads((place.folder / MANIFEST_FILE).read_bytes())
    limits, dtype = manifest["limits"], model.engine.dtype
    inputs = golden_inputs(place.folder, int(limits["max_input_len"]))
    world_size = int(manifest["runtime"].get("world_size", 1))
    with _serving(model, place, triton, world_size) as player:
        if model.task == "embed":
            return embedding_document(player.embed(model.name, inputs), dtype)
        limit = int(limits["max_seq_len"])
        answers = player.generate(model.name, inputs, limit)
        document = generation_document(answers, dtype)
        document["observed"] = asdict(player.observe(model.name, inputs[0], limit))
    place.journal.write(f"observed: {document['observed']}")
    return document


def server_arguments(
    triton: Path, model: str, repository: Path, backends: Path, socket: Path, world_size: int
) -> tuple[str, ...]:
    """Returns the server's command line: one process for each rank, the first of which answers."""
    shared = (
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        f"--load-model={model}",
        "--disable-auto-complete-config",
        "--allow-http=false",
        "--allow-metrics=false",
    )
    first = (*shared, f"--grpc-address=unix:{socket}", "--grpc-port=1")
    if world_size == 1:
        return first
    words = ["mpirun", "--allow-run-as-root", "-n", "1", *_rank(first, 0)]
    for rank in range(1, world_size):
        words += [":", "-n", "1", *_rank((*shared, "--allow-grpc=false"), rank)]
    return tuple(words)


def _rank(arguments: tuple[str, ...], rank: int) -> tuple[str, ...]:
    return (*arguments, f"--backend-config=python,shm-region-prefix-name=rank{rank}_")


@contextmanager
def _serving(model: Model, place: Workplace, triton: Path, world_size: int) -> Iterator[Player]:
    with tempfile.TemporaryDirectory(prefix="trial-") as scratch:
        folder = Path(scratch)
        repository = _assemble(model, place, triton, folder)
        # Triton appends the port to the name.
        socket = folder / "grpc"
        is_engine = (place.folder / "engine").is_dir() and model.task == "generate"
        arguments = server_arguments(
            triton,
            model.name,
            repository,
            folder / "backends",
            socket,
            world_size if is_engine else 1,
        )
        with place.journal.path.open("ab") as log, started(arguments, log.fileno()) as process:
            player = Player(f"unix:{socket}:1")
            try:
                _wait(player, model, process.poll)
                yield player
            finally:
                player.close()


def _assemble(model: Model, place: Workplace, triton: Path, folder: Path) -> Path:
    """Creates a repository of this one version, with the image's backends and our own."""
    served = folder / "repository" / model.name
    served.mkdir(parents=True)
    (served / CONFIG_FILE).write_bytes((place.folder / CONFIG_FILE).read_bytes())
    (served / place.final.name).symlink_to(place.folder)
    backends = folder / "backends"
    backends.mkdir()
    for backend in [*(triton / "backends").glob("*"), *_OWN_BACKENDS.glob("*")]:
        (backends / backend.name).symlink_to(backend)
    return served.parent


def _wait(player: Player, model: Model, ended: Any) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not player.is_ready(model.name):
        if ended() is not None:
            raise SelfTestError(f"Triton ended with code {ended()} while it loaded the engine")
        if time.monotonic() > deadline:
            raise SelfTestError(f"Triton did not load the engine within {_START_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)
