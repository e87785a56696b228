"""A tritonserver that nobody of ours supervises: on TCP, with TLS, as on another machine."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import trustme

from orchestrator.supervisor import Endpoint, command
from orchestrator.supervisor.installation import find_installation
from orchestrator.supervisor.run_directory import assemble
from tests.integration.scripted.repository import ScriptedRepository
from tests.integration.serving import free_port

TOKEN = "remote-token"  # of the restricted protocols, as an operator would set it


@dataclass(frozen=True)
class RemoteTriton:
    """A running server. `settings` are the orchestrator's, keyed as in `SERVER__PORT`."""

    process: psutil.Process
    settings: dict[str, object]

    def kill(self) -> None:
        """As a machine that goes away does: with its stubs, and without a word."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (*self.process.children(recursive=True), self.process):
                process.kill()


@contextmanager
def remote_triton(
    folder: Path, repository: ScriptedRepository, *, tls: bool = True, port: int | None = None
) -> Iterator[RemoteTriton]:
    """Starts one and ends it, whatever state it is in by then. It wants `TOKEN` in metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    installation = find_installation()
    run = assemble(folder, f"remote{secrets.token_hex(6)}", installation, repository.path)
    port = port or free_port()
    arguments = command.arguments(
        installation=installation,
        run=run,
        endpoint=Endpoint("", TOKEN, "remote"),
        models=repository.names,
        metrics_port=free_port(),
        exit_timeout_s=5,
    )
    arguments = [one for one in arguments if not one.startswith(("--grpc-address", "--grpc-port"))]
    arguments += ["--grpc-address=127.0.0.1", f"--grpc-port={port}"]
    settings: dict[str, object] = {
        **repository.settings,
        "TRITON__MODE": "remote",
        "TRITON__URL": f"localhost:{port}",
        "TRITON__METADATA": f'{{"triton-grpc-protocol-tok": "{TOKEN}"}}',
    }
    if tls:
        arguments += _certificate(folder)
        settings |= {"TRITON__TLS": "true", "TRITON__TLS_CA_FILE": folder / "ca.pem"}
    with (folder / "triton.log").open("wb") as log:
        started = subprocess.Popen(
            arguments, env=command.environment(installation, run, 0), stdout=log, stderr=log
        )
    process = psutil.Process(started.pid)
    try:
        yield RemoteTriton(process, settings)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            for child in process.children(recursive=True):
                child.kill()
            started.kill()
            started.wait()
        time.sleep(0.1)
        run.remove()


def _certificate(folder: Path) -> list[str]:
    """Arguments for a server with one; its authority's is `ca.pem`."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    return [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={folder / 'cert.pem'}",
        f"--grpc-server-key={folder / 'key.pem'}",
    ]
