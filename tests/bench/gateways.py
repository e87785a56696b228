"""The gateways of the comparison as running programs: ours and the peers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from orchestrator.settings import PROJECT_ROOT
from tests.bench import environment
from tests.bench.engine.work import BURST, EMBED, PACED, SLOW
from tests.bench.repository import Repository
from tests.bench.stack import free_port

READY_WITHIN_S = 90.0
OURS, LITELLM, PORTKEY = "orchestrator", "LiteLLM", "Portkey"
ROUTER_A, ROUTER_B, ENGINE = "vllm-router (Rust)", "sglang-router (Rust)", "engine alone"
ADMIN = "op_live_be9c_00000000000000000000000000000001"


@dataclass(frozen=True, slots=True)
class Target:
    """What the load goes to. `pid` is the root of the process tree that is measured."""

    name: str
    port: int
    pid: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Engine:
    """The fake engine's ports and process."""

    grpc_port: int
    http_port: int
    pid: int


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """The fake engine, as a process of its own."""
    grpc_port, http_port = free_port(), free_port()
    command = [sys.executable, "-m", "tests.bench.engine", str(grpc_port), str(http_port)]
    with _running("engine", command, {}, folder) as pid:
        _wait(f"http://127.0.0.1:{http_port}/health", {}, folder / "engine.log")
        yield Engine(grpc_port, http_port, pid)


@contextlib.contextmanager
def orchestrator(
    behind: Engine,
    repository: Repository,
    folder: Path,
    *,
    collector: str | None = None,
    settings: Mapping[str, str] | None = None,
    name: str = OURS,
) -> Iterator[Target]:
    """Ours, with a key that has limits and a policy, and a tenth of all requests traced."""
    port = free_port()
    variables = {
        "ORCHESTRATOR_SERVER__PORT": str(port),
        "ORCHESTRATOR_DATA_DIR": str(folder / f"data-{port}"),
        "ORCHESTRATOR_CATALOGUE": str(repository.catalogue),
        "ORCHESTRATOR_BOOTSTRAP__ADMIN_KEY": ADMIN,
        "ORCHESTRATOR_TRITON__MODE": "remote",
        "ORCHESTRATOR_TRITON__URL": f"127.0.0.1:{behind.grpc_port}",
        "ORCHESTRATOR_TRITON__REPOSITORY": str(repository.path),
        **_traced(collector),
        **(settings or {}),
    }
    command = [sys.executable, "-m", "orchestrator", "serve"]
    with _running(f"{name}-{port}", command, variables, folder) as pid:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/health/ready", {}, folder / f"{name}-{port}.log")
        yield Target(name, port, pid, {"Authorization": f"Bearer {key_with_limits(url)}"})


def key_with_limits(url: str, **limits: int) -> str:
    """A new key with a policy of its own; without `limits` it has some that are never reached."""
    document = {
        "limits": {"rpm": 10**8, "tpd": 10**12, "concurrency": 10**5},
        "allowed_models": [PACED, SLOW, BURST, EMBED],
        "client_networks": ["127.0.0.0/8"],
        "allowed_routes": ["local"],
    }
    policy = _post(f"{url}/v1/policies", {"name": f"bench-{time.time_ns()}", "document": document})
    numbers = limits or {
        "rpm_limit": 10**8,
        "tpd_limit": 10**12,
        "concurrency_limit": 10**5,
    }
    key = _post(f"{url}/v1/keys", {"label": "bench", "policy_id": policy["id"], **numbers})
    return str(key["secret"])


def _post(url: str, body: Mapping[str, object]) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
    asked = Request(url, json.dumps(body).encode(), headers)  # our own server
    with urlopen(asked, timeout=30) as answer:
        reply: dict[str, object] = json.load(answer)
    return reply


def _traced(collector: str | None) -> dict[str, str]:
    if collector is None:
        return {}
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
    }


@contextlib.contextmanager
def litellm(behind: Engine, folder: Path) -> Iterator[Target]:
    """LiteLLM's proxy with one worker and a master key, without a database."""
    key, port = "sk-bench", free_port()
    api_base = f"http://127.0.0.1:{behind.http_port}/v1"
    models = [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}", "api_base": api_base, "api_key": "none"},
        }
        for name in (PACED, BURST, EMBED)
    ]
    config = folder / "litellm.yaml"
    # JSON is YAML.
    config.write_text(
        json.dumps(
            {
                "model_list": models,
                "litellm_settings": {"telemetry": False},
                "general_settings": {"master_key": key},
            }
        ),
        encoding="utf-8",
    )
    program = environment.program("litellm")
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    variables = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    with _running(LITELLM, [*command, "--num_workers", "1"], variables, folder) as pid:
        headers = {"Authorization": f"Bearer {key}"}
        _wait(f"http://127.0.0.1:{port}/health/liveliness", headers, folder / f"{LITELLM}.log")
        yield Target(LITELLM, port, pid, headers)


@contextlib.contextmanager
def portkey(behind: Engine, folder: Path) -> Iterator[Target]:
    """Portkey's gateway, told by headers where to go."""
    port = free_port()
    server = environment.portkey_server()
    command = ["node", str(server), f"--port={port}", "--headless"]
    with _running(PORTKEY, command, {"NODE_ENV": "production"}, folder) as pid:
        headers = {
            "Authorization": "Bearer none",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{behind.http_port}/v1",
        }
        _wait(f"http://127.0.0.1:{port}/", headers, folder / f"{PORTKEY}.log")
        yield Target(PORTKEY, port, pid, headers)


@contextlib.contextmanager
def router(name: str, module: str, behind: Engine, folder: Path) -> Iterator[Target]:
    """One of the Rust routers, which pass on what they get."""
    port = free_port()
    command = [str(environment.python()), "-m", module, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", f"http://127.0.0.1:{behind.http_port}"]
    command += ["--policy", "round_robin", "--prometheus-port", str(free_port())]
    short = name.partition(" ")[0]
    with _running(short, command, {"RUST_LOG": "error"}, folder) as pid:
        _wait(f"http://127.0.0.1:{port}/health", {}, folder / f"{short}.log")
        yield Target(name, port, pid)


@contextlib.contextmanager
def _running(
    name: str, command: Sequence[str], variables: Mapping[str, str], folder: Path
) -> Iterator[int]:
    """`command` in a session of its own, which leaves nothing behind; yields its process id."""
    program = shutil.which(command[0]) or command[0]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *command[1:]],
            cwd=PROJECT_ROOT,
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, headers: Mapping[str, str], log: Path) -> None:
    """Returns when `url` answers with 200. Raises: GatewayMissing."""
    give_up_at = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < give_up_at:
        try:
            with urlopen(Request(url, headers=dict(headers)), timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    tail = log.read_text(encoding="utf-8", errors="replace")[-400:]
    raise GatewayMissing(f"{log.stem} does not answer: {tail}")


class GatewayMissing(Exception):
    """A gateway that is not there, or does not start."""
