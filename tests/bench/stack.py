"""A Triton under our supervisor, and the orchestrator in front of it as a program of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.settings import PROJECT_ROOT, Settings, TritonSettings
from orchestrator.supervisor import Supervisor
from orchestrator.triton.client import TritonClient, TritonEndpoint
from orchestrator.triton.probe import Probe

READY_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs. `client` speaks to Triton directly, as the orchestrator does."""

    port: int
    key: str
    orchestrator_pid: int
    client: TritonClient
    supervisor: Supervisor


@contextlib.asynccontextmanager
async def running(
    repository: Path, catalogue: Path, models: tuple[str, ...], folder: Path
) -> AsyncIterator[Stack]:
    """Starts both, and leaves nothing behind."""
    settings = Settings(data_dir=folder / "triton", triton=TritonSettings(repository=repository))
    settings.data_dir.mkdir(parents=True, mode=0o700)
    supervisor = Supervisor(settings, models)
    endpoint = TritonEndpoint(supervisor.endpoint.url, supervisor.endpoint.token)
    client = TritonClient(endpoint)
    probe = Probe(client, generate=models, embed=(), server_id=supervisor.endpoint.server_id)
    triton = asyncio.create_task(supervisor.run(probe))
    try:
        await asyncio.wait(
            [triton, ready := asyncio.create_task(supervisor.ready())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        ready.cancel()
        if triton.done():
            triton.result()
        async with _orchestrator(supervisor, repository, catalogue, folder) as (port, key, pid):
            yield Stack(port, key, pid, client, supervisor)
    finally:
        await client.close()
        supervisor.ask_to_stop()
        await triton


@contextlib.asynccontextmanager
async def _orchestrator(
    supervisor: Supervisor, repository: Path, catalogue: Path, folder: Path
) -> AsyncIterator[tuple[int, str, int]]:
    key = f"op_live_{secrets.token_hex(2)}_{secrets.token_hex(16)}"
    port = free_port()
    environment = {
        **os.environ,
        "ORCHESTRATOR_SERVER__PORT": str(port),
        "ORCHESTRATOR_DATA_DIR": str(folder / "orchestrator"),
        "ORCHESTRATOR_CATALOGUE": str(catalogue),
        "ORCHESTRATOR_BOOTSTRAP__ADMIN_KEY": key,
        "ORCHESTRATOR_TRITON__MODE": "remote",
        "ORCHESTRATOR_TRITON__URL": supervisor.endpoint.url,
        "ORCHESTRATOR_TRITON__TOKEN": supervisor.endpoint.token,
        "ORCHESTRATOR_TRITON__REPOSITORY": str(repository),
    }
    log = (folder / "orchestrator.log").open("wb")
    process = subprocess.Popen(  # noqa: ASYNC220  # before the measuring begins
        [sys.executable, "-m", "orchestrator", "serve"],
        cwd=PROJECT_ROOT,
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            while not await _answers(port):
                if process.poll() is not None:
                    raise RuntimeError((folder / "orchestrator.log").read_text()[-2000:])
                await asyncio.sleep(0.05)
        yield port, key, process.pid
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)
        log.close()


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return b" 200 " in answer.split(b"\r\n", 1)[0]


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
