"""Servers that many tests share, each started once, on free ports of the loopback."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.contract.catalogue import load_catalogue
from orchestrator.settings import PROJECT_ROOT, Settings, TritonSettings
from orchestrator.supervisor import Supervisor
from orchestrator.supervisor.state import progress_file
from orchestrator.triton.client import TritonClient, TritonEndpoint
from orchestrator.triton.probe import Probe
from tests.integration.managing import box, own_box, shared_box  # noqa: F401  # fixtures
from tests.integration.observed import Observed, observed
from tests.integration.scripted.repository import (
    AGENT,
    THINKER,
    ScriptedRepository,
    write_repository,
)
from tests.integration.serving import Serving, running


@dataclass(frozen=True)
class SupervisedTriton:
    """A Triton without an orchestrator in front, and where to reach it."""

    supervisor: Supervisor
    endpoint: TritonEndpoint
    settings: Settings


@pytest.fixture(scope="session")
def demo_models() -> None:
    """The models of the catalogue, built if they are not."""
    subprocess.run([sys.executable, "-m", "build_engines"], cwd=PROJECT_ROOT, check=True)


@pytest.fixture(scope="session")
def appliance(demo_models: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """`orchestrator serve` with the demo models; `key` is its admin key."""
    yield from running(Serving(tmp_path_factory.mktemp("appliance")))


@pytest.fixture(scope="session")
def watched(demo_models: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """`orchestrator serve` with the demo models and two workers, whose telemetry is received."""
    with observed(tmp_path_factory.mktemp("watched")) as appliance:
        yield appliance


@pytest.fixture(scope="session")
def scripted_repository(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRepository:
    """The scripted models of `scripted_appliance`, and the log of what they did."""
    path = tmp_path_factory.mktemp("scripted") / "repository"
    return write_repository(path, ("scripted", THINKER, AGENT))


@pytest.fixture(scope="session")
def scripted_appliance(
    scripted_repository: ScriptedRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """`orchestrator serve` with the models `scripted/scripted`, which does what prompts say, and
    `scripted/thinker`, which also thinks and calls tools, and `scripted/agent` for coding agents.
    """
    folder = tmp_path_factory.mktemp("scripted_appliance")
    yield from running(Serving(folder, scripted_repository.settings))


@pytest.fixture(scope="session")
async def triton_demo(
    demo_models: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SupervisedTriton]:
    """A Triton with the demo models, to be spoken to directly."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("triton_demo"))
    async for triton in _supervised(settings):
        yield triton


@pytest.fixture(scope="session")
async def triton_scripted(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[SupervisedTriton, ScriptedRepository]]:
    """A Triton with a scripted model, to be spoken to directly."""
    folder = tmp_path_factory.mktemp("triton_scripted")
    repository = write_repository(folder / "repository")
    async for triton in _supervised(scripted_settings(folder / "data", repository)):
        yield triton, repository


def scripted_settings(data_dir: Path, repository: ScriptedRepository) -> Settings:
    """Settings for a supervisor over `repository`."""
    return Settings(
        data_dir=data_dir,
        catalogue=repository.catalogue,
        triton=TritonSettings(repository=repository.path),
    )


def probe_for(supervisor: Supervisor, settings: Settings, client: TritonClient) -> Probe:
    """The probe that `orchestrator serve` would use."""
    models = load_catalogue(settings.catalogue).models
    return Probe(
        client,
        generate=[model.name for model in models if model.task == "generate"],
        embed=[model.name for model in models if model.task == "embed"],
        server_id=supervisor.endpoint.server_id,
        progress_file=progress_file(settings.data_dir),
    )


async def _supervised(settings: Settings) -> AsyncIterator[SupervisedTriton]:
    models = load_catalogue(settings.catalogue).models
    supervisor = Supervisor(settings, [model.name for model in models])
    endpoint = TritonEndpoint(url=supervisor.endpoint.url, token=supervisor.endpoint.token)
    client = TritonClient(endpoint)
    running = asyncio.create_task(supervisor.run(probe_for(supervisor, settings, client)))
    ready = asyncio.create_task(supervisor.ready())
    try:
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if running.done():
            running.result()
        yield SupervisedTriton(supervisor, endpoint, settings)
    finally:
        supervisor.ask_to_stop()
        await running
        await client.close()
