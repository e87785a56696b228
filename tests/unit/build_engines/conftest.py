"""Engines for the tests, built by the real builder from checkpoints of a fixed seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from build_engines.builder import Builder
from build_engines.cpu.engine import Engine
from build_engines.cpu.serving import open_engine
from build_engines.repository.versions import Repository
from build_engines.serving.artefacts import Artefacts, open_artefacts
from build_engines.targets.table import load_target
from orchestrator.contract.catalogue import EngineRecipe, Model
from tests.reference.checkpoints import write_decoder

ROOT = Path(__file__).resolve().parents[3]
TEMPLATES = ROOT / "model_repository" / "templates"


def model_of(
    checkpoint: Path, task: Literal["generate", "embed"], context_tokens: int = 256, **recipe: Any
) -> Model:
    """A catalogue entry for `checkpoint`."""
    engine = EngineRecipe(checkpoint=str(checkpoint), **recipe)
    name = checkpoint.name
    return Model(f"test/{name}", name, task, context_tokens, engine)


def builder_for(repository: Path) -> Builder:
    """The builder of the CPU target into `repository`."""
    repository.mkdir(exist_ok=True)
    return Builder(Repository(repository, TEMPLATES), load_target("cpu"), ROOT, "test")


def built(repository: Path, model: Model) -> Artefacts:
    """The artefacts of `model`, built into `repository`."""
    builder_for(repository).build(model, lambda _stage: None)
    folder = Repository(repository, TEMPLATES)
    version = folder.served_version(model.name)
    assert version is not None
    return open_artefacts(folder.version_folder(model.name, version), "cpu")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    """A llama engine with room for 32 sequences of up to 256 tokens."""
    folder = tmp_path_factory.mktemp("llama")
    checkpoint = write_decoder(folder / "checkpoint", "llama")
    return built(folder / "repository", model_of(checkpoint, "generate", max_batch_size=32))


EngineFactory = Callable[..., Engine]


@pytest.fixture(scope="session")
def engine(llama: Artefacts) -> Iterator[Engine]:
    """A running engine that tests share."""
    opened = open_llama(llama)
    yield opened
    opened.close()


@pytest.fixture
def engine_with(llama: Artefacts) -> Iterator[EngineFactory]:
    """Opens engines over the llama artefacts with other limits; closes them afterwards."""
    opened: list[Engine] = []

    def factory(**limits: int) -> Engine:
        opened.append(open_llama(llama, **limits))
        return opened[-1]

    yield factory
    for one in opened:
        one.close()


def open_llama(artefacts: Artefacts, *, max_queue_size: int = 0, **limits: int) -> Engine:
    """An engine over `artefacts` with `limits` in place of the manifest's."""
    manifest = {**artefacts.manifest, "limits": {**artefacts.manifest["limits"], **limits}}
    changed = Artefacts(artefacts.folder, manifest)
    return open_engine(
        changed, max_queue_size=max_queue_size, reuse=True, on_progress=lambda _urgent: None
    )
