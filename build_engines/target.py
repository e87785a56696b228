"""What a kind of engine must offer to be built, and the table of those kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from build_engines.checkpoint import Checkpoint
from orchestrator.catalogue import Model

#: Told about each stage of a build.
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """What a target made: goes into `manifest.json` and `config.pbtxt`."""

    limits: Mapping[str, int]
    features: Mapping[str, Any]
    embedding: Mapping[str, Any] | None
    versions: Mapping[str, str]
    runtime: Mapping[str, Any] = field(default_factory=dict)


class Target(Protocol):
    """One kind of engine. `backend` is Triton's backend name."""

    name: str
    backend: str
    #: Raised whenever the same inputs would give other artefacts.
    version: int

    def parameters(self, model: Model) -> Mapping[str, str]:
        """The parameters of `config.pbtxt`."""

    def disk_bytes(self, model: Model, checkpoint: Checkpoint) -> int:
        """About how much disk the artefacts take."""

    def build(
        self, model: Model, checkpoint: Checkpoint, folder: Path, progress: Progress
    ) -> BuiltEngine:
        """Writes the artefacts into `folder`. Raises: CheckpointError."""


def load_target(name: str) -> Target:
    """The target called `name`, which must be one of `TARGETS`."""
    return TARGETS[name]()


def _cpu() -> Target:
    from build_engines.cpu.build import CpuTarget

    return CpuTarget()


#: Loaded on demand: each pulls in the libraries of its engine only when it is used.
TARGETS: Mapping[str, Callable[[], Target]] = {"cpu": _cpu}
