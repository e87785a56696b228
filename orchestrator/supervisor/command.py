"""How tritonserver is started: its arguments and its environment, restricted."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.settings import ENV_PREFIX
from orchestrator.supervisor.installation import Installation, ServerRoot
from orchestrator.supervisor.run_directory import RunDirectory
from orchestrator.supervisor.state import Endpoint

_PROTOCOLS = (
    "health,metadata,inference,shared-memory,model-config,model-repository,statistics,trace,logging"
)
_SPANS_EVERY_MS = 1000
THREADS_VARIABLE = "CPU_ENGINE_THREADS"
_NOT_HANDED_DOWN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")


def arguments(
    *,
    installation: Installation | ServerRoot,
    run: RunDirectory,
    endpoint: Endpoint,
    models: Sequence[str],
    metrics_port: int,
    exit_timeout_s: float,
    traces_url: str | None = None,
) -> list[str]:
    """Returns the command line.

    It contains the token, because Triton reads it from nowhere else; the socket's folder, mode
    0700, keeps other users out.
    """
    backends, gpu = run.backends, ["--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0"]
    if isinstance(installation, ServerRoot):
        # Both flags are for the wheel's Triton, which would look for a GPU and warn.
        backends, gpu = installation.backends, []
    return [
        str(installation.server),
        f"--id={endpoint.server_id}",
        f"--model-repository={run.repository}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={run.shared_memory_prefix}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        # A model that fails to load must not stop the others.
        "--exit-on-error=false",
        "--disable-auto-complete-config",
        "--allow-http=false",
        f"--grpc-address={run.grpc_address}",
        "--grpc-port=1",
        f"--grpc-restricted-protocol={_PROTOCOLS}:tok={endpoint.token}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        *gpu,
        f"--exit-timeout-secs={max(1, round(exit_timeout_s))}",
        *_tracing(traces_url),
    ]


def _tracing(url: str | None) -> list[str]:
    """Sends spans to `url`, but only of requests that name a span of ours as their parent."""
    if url is None:
        return []
    words = (
        "mode=opentelemetry",
        f"opentelemetry,url={url}",
        "opentelemetry,resource=service.name=triton",
        f"opentelemetry,bsp_schedule_delay={_SPANS_EVERY_MS}",
        "level=TIMESTAMPS",
        "rate=0",
        "count=-1",
    )
    return [f"--trace-config={word}" for word in words]


def environment(
    installation: Installation | ServerRoot, run: RunDirectory, engine_threads: int
) -> Mapping[str, str]:
    """Returns our environment without our settings (they hold secrets), with our Python first."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(ENV_PREFIX) and name not in _NOT_HANDED_DOWN
    }
    if engine_threads:
        kept[THREADS_VARIABLE] = str(engine_threads)
    if isinstance(installation, ServerRoot):
        # The image's own environment says where its libraries and its Python are.
        return kept
    libraries = [str(run.libraries), str(installation.libraries)]
    if inherited := kept.get("LD_LIBRARY_PATH"):
        libraries.append(inherited)
    kept["LD_LIBRARY_PATH"] = ":".join(libraries)
    # The stub uses the packages of the first `python3` on the path.
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept.get('PATH', os.defpath)}"
    return kept
