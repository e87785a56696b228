"""What a kind of engine must offer to be built, and the table of those kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from build_engines.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from build_engines.families import TargetName, family_of
from build_engines.hub import locate
from build_engines.journal import Journal
from build_engines.machine import Machine
from build_engines.plan import Plan
from orchestrator.catalogue import Model


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """What a target made: goes into `manifest.json` and `config.pbtxt`."""

    limits: Mapping[str, int]
    features: Mapping[str, Any]
    embedding: Mapping[str, Any] | None
    versions: Mapping[str, str]
    runtime: Mapping[str, Any] = field(default_factory=dict)
    #: Programs that ran, word for word.
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where one build works: `folder` is filled and then renamed to `final`."""

    folder: Path
    final: Path
    scratch: Path
    journal: Journal


class Target(Protocol):
    """One kind of engine."""

    name: TargetName
    #: Raised whenever the same inputs would give other artefacts.
    version: int

    def plan(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> Plan:
        """What a build would do. Raises: CheckpointError, PlanError."""

    def check(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> None:
        """Refuses what cannot be built on this machine. Raises: PlanError."""

    def parameters(self, model: Model, folder: Path) -> Mapping[str, str]:
        """The parameters of `config.pbtxt` for artefacts that lie in `folder`."""

    def build(
        self, model: Model, checkpoint: Checkpoint, plan: Plan, place: Workplace
    ) -> BuiltEngine:
        """Writes the artefacts into `place.folder`. Raises: CheckpointError, PlanError."""

    def self_test(self, model: Model, place: Workplace) -> Mapping[str, Any]:
        """Runs the engine over the golden prompts: the document `selftest.json`.

        The folder holds manifest and configuration by then. Raises: SelfTestError.
        """


def default_target(model: Model, root: Path, machine: Machine) -> TargetName:
    """The best kind of engine that this machine and the model's architecture both have."""
    best = machine.default_target
    if best == "cpu":
        return best
    try:
        location = locate(model.engine.for_target(best), root)
        family = family_of(open_checkpoint(location.path).architecture)
    except CheckpointError:
        # The build says what is wrong.
        return best
    names: tuple[TargetName, ...] = (best, "llmapi", "cpu")
    return next((name for name in names if name in family.targets), best)


def load_target(name: str) -> Target:
    """The target called `name`, which must be one of `TARGETS`."""
    return TARGETS[name]()


def _cpu() -> Target:
    from build_engines.cpu.build import CpuTarget

    return CpuTarget()


def _trtllm() -> Target:
    from build_engines.trtllm.build import TrtLlmTarget

    return TrtLlmTarget()


def _llmapi() -> Target:
    from build_engines.llmapi.build import LlmApiTarget

    return LlmApiTarget()


#: Loaded on demand: each pulls in the libraries of its engine only when it is used.
TARGETS: Mapping[str, Callable[[], Target]] = {"cpu": _cpu, "trtllm": _trtllm, "llmapi": _llmapi}
