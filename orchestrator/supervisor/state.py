"""The state of the supervised Triton, and the file in which other processes read it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Phase = Literal["starting", "ready", "down", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the supervised Triton listens; the same over all its restarts.

    `url` is `unix:/path`. Every call must carry `token` in the header `triton-grpc-protocol-tok`,
    and the server reports `server_id` as its name.
    """

    url: str
    token: str = field(repr=False)
    server_id: str


@dataclass(frozen=True, slots=True)
class State:
    """Triton's state at one moment. `reason` says why it is down or what a restart waits for."""

    phase: Phase
    reason: str = ""
    restarts: int = 0
    """Number of restarts since the appliance started."""
    pid: int | None = None
    metrics_port: int | None = None
    """The port of Triton's own metrics, on 127.0.0.1."""
    failed_models: Mapping[str, str] = field(default_factory=dict)
    """Models that did not load, by Triton's directory name, with the cause."""
    changed_at: float = field(default_factory=time.time)
    """Unix seconds."""


def run_folder(data_dir: Path) -> Path:
    """The folder of run directories, the status file and the progress file."""
    return data_dir / "run"


def progress_file(data_dir: Path) -> Path:
    """The file that workers touch when Triton has answered, so that a busy one counts as alive."""
    return run_folder(data_dir) / "progress"


def faults_file(data_dir: Path) -> Path:
    """The file in which workers say why models are not served: a JSON object by model id."""
    return run_folder(data_dir) / "faults.json"


def read_state(data_dir: Path) -> State | None:
    """Reads the last written state; `None` when no supervisor has run on `data_dir`."""
    try:
        document = json.loads(_status_file(data_dir).read_text(encoding="utf-8"))
        return State(**document)
    except (OSError, ValueError, TypeError):
        return None


def forget_state(data_dir: Path) -> None:
    """Removes the status file: no supervisor runs on `data_dir`."""
    _status_file(data_dir).unlink(missing_ok=True)


def write_state(data_dir: Path, state: State) -> None:
    """Replaces the whole status file. Raises: OSError."""
    path = _status_file(data_dir)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")
    draft.replace(path)


def _status_file(data_dir: Path) -> Path:
    return run_folder(data_dir) / "status.json"
