"""What a kind of engine must offer to be built, and the table of those kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from build_engines.checkpoint.families import TargetName
from build_engines.checkpoint.files import Checkpoint
from build_engines.host.machine import Machine
from build_engines.journal import Journal
from build_engines.plan import Plan
from orchestrator.contract.catalogue import Model


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
