"""The supervisor and a real tritonserver, without an orchestrator in front."""

from __future__ import annotations

import asyncio
import shutil
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from orchestrator.core.errors import GatewayError
from orchestrator.settings import Settings, TritonSettings
from orchestrator.supervisor import StartError, State, Supervisor, installation
from orchestrator.supervisor.installation import Installation, find_installation
from orchestrator.supervisor.state import read_state
from orchestrator.triton.client import TritonClient, TritonEndpoint
from orchestrator.triton.probe import Probe, ProbeError
from tests.integration.conftest import SupervisedTriton, probe_for, scripted_settings
from tests.integration.scripted.repository import ScriptedRepository, write_repository

Scripted = tuple[SupervisedTriton, ScriptedRepository]


@asynccontextmanager
async def running(
    settings: Settings, models: list[str], states: list[State] | None = None
) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(settings, models, states.append if states is not None else None)
    client = TritonClient(
        TritonEndpoint(url=supervisor.endpoint.url, token=supervisor.endpoint.token)
    )
    task = asyncio.create_task(supervisor.run(probe_for(supervisor, settings, client)))
    ready = asyncio.create_task(supervisor.ready())
    try:
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if task.done():
            task.result()
        yield supervisor
    finally:
        supervisor.ask_to_stop()
        await asyncio.wait([task])
        await client.close()


def shared_memory_of(run_id: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{run_id}*"))


def repository_of(tmp_path: Path, *names: str) -> ScriptedRepository:
    return write_repository(tmp_path / "repository", names or ("scripted",))


async def test_life_is_told_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    settings = scripted_settings(tmp_path / "data", repository_of(tmp_path))
    states: list[State] = []
    async with running(settings, ["scripted"], states) as supervisor:
        pid = supervisor.state.pid
        assert pid is not None
        group = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        assert len(group) == 2
        assert read_state(settings.data_dir) == supervisor.state
    phases = [state.phase for state in states]
    assert phases == ["starting", "ready", "stopping", "stopped"]
    assert not any(process.is_running() for process in group)
    assert [path.name for path in (settings.data_dir / "run").iterdir()] == ["status.json"]
    run_id = supervisor.endpoint.server_id.removeprefix("appliance-")
    assert shared_memory_of(run_id) == []


async def test_restart_keeps_the_endpoint(tmp_path: Path) -> None:
    settings = scripted_settings(tmp_path / "data", repository_of(tmp_path))
    states: list[State] = []
    async with running(settings, ["scripted"], states) as supervisor:
        endpoint = supervisor.endpoint
        assert supervisor.state.pid is not None
        psutil.Process(supervisor.state.pid).kill()
        async with asyncio.timeout(60):
            while [state.phase for state in states].count("ready") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert supervisor.endpoint == endpoint
        assert supervisor.state.restarts == 1
    down = next(state for state in states if state.phase == "down")
    assert down.reason.startswith("Triton was killed by signal 9")


async def test_only_the_metrics_are_on_the_network_and_only_on_the_loopback(
    triton_scripted: Scripted,
) -> None:
    triton, _ = triton_scripted
    assert triton.supervisor.state.pid is not None
    server = psutil.Process(triton.supervisor.state.pid)
    listening = [one.laddr for one in server.net_connections("inet") if one.status == "LISTEN"]
    assert listening == [("127.0.0.1", triton.supervisor.state.metrics_port)]
    folder = Path(triton.endpoint.url.removeprefix("unix:")).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_caller_without_the_token_is_refused(
    token: str | None, triton_scripted: Scripted
) -> None:
    client = TritonClient(replace(triton_scripted[0].endpoint, token=token))
    try:
        with pytest.raises(GatewayError):
            await client.server_id()
        assert not await client.model_ready("scripted")
    finally:
        await client.close()


async def test_server_answers_by_the_name_it_was_given(triton_scripted: Scripted) -> None:
    triton, _ = triton_scripted
    client = TritonClient(triton.endpoint)
    try:
        assert await client.server_id() == triton.supervisor.endpoint.server_id
    finally:
        await client.close()


async def test_model_that_does_not_load_is_told_with_its_cause(tmp_path: Path) -> None:
    repository = repository_of(tmp_path, "scripted", "broken")
    backend = repository.path / "backends" / "scripted_broken"
    backend.mkdir()
    (backend / "model.py").write_text("import a_package_that_is_not_there\n", encoding="utf-8")
    config = repository.path / "broken" / "config.pbtxt"
    text = config.read_text(encoding="utf-8").replace('"scripted"', '"scripted_broken"')
    config.write_text(text, encoding="utf-8")
    settings = scripted_settings(tmp_path / "data", repository)
    async with running(settings, ["scripted", "broken", "missing"]) as supervisor:
        failed = supervisor.state.failed_models
        assert set(failed) == {"broken", "missing"}
        assert "a_package_that_is_not_there" in failed["broken"]
        assert "not found" in failed["missing"]


async def test_metrics_port_in_use_is_one_sentence(
    triton_scripted: Scripted, tmp_path: Path
) -> None:
    taken = triton_scripted[0].supervisor.state.metrics_port
    assert taken is not None
    settings = scripted_settings(tmp_path / "data", repository_of(tmp_path))
    triton = TritonSettings(**{**settings.triton.model_dump(), "metrics_port": taken})
    settings = settings.model_copy(update={"triton": triton})
    with pytest.raises(StartError, match="in use"):
        async with running(settings, ["scripted"]):
            pass
    assert not list((settings.data_dir / "run").glob("*/record.json"))


async def test_missing_library_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find_installation()
    # A copy does not find the wheel's libraries beside it, as on a machine that lacks them.
    server = tmp_path / "tritonserver"
    shutil.copy(real.server, server)
    (tmp_path / "libraries").mkdir()

    def without_libraries() -> Installation:
        return replace(real, server=server, libraries=tmp_path / "libraries")

    monkeypatch.setattr(installation, "find_installation", without_libraries)
    settings = scripted_settings(tmp_path / "data", repository_of(tmp_path))
    with pytest.raises(StartError, match=r"^Triton needs the library lib\S+, which this machine"):
        async with running(settings, ["scripted"]):
            pass


async def test_program_that_cannot_be_executed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "tritonserver"
    server.write_bytes(b"\x7fELF of another machine")
    server.chmod(0o755)
    broken = replace(find_installation(), server=server)
    monkeypatch.setattr(installation, "find_installation", lambda: broken)
    settings = scripted_settings(tmp_path / "data", repository_of(tmp_path))
    with pytest.raises(StartError, match=r"cannot be executed: Exec format error$"):
        async with running(settings, ["scripted"]):
            pass


async def test_start_that_takes_too_long_is_one_sentence(tmp_path: Path) -> None:
    repository = repository_of(tmp_path)
    settings = Settings(
        data_dir=tmp_path / "data",
        catalogue=repository.catalogue,
        triton=TritonSettings(repository=repository.path, start_timeout_s=0.05),
    )
    with pytest.raises(StartError, match=r"did not become ready within 0\.05 s"):
        async with running(settings, ["scripted"]):
            pass


async def test_another_triton_at_the_address_is_not_ready(triton_scripted: Scripted) -> None:
    client = TritonClient(triton_scripted[0].endpoint)
    try:
        with pytest.raises(ProbeError, match="another"):
            await Probe(client, generate=[], embed=[], server_id="somebody-else")()
    finally:
        await client.close()
