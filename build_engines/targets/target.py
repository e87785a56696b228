"""The protocol of a target, which builds one kind of engine."""

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
    """The result of a target, for `manifest.json` and `config.pbtxt`."""

    limits: Mapping[str, int]
    features: Mapping[str, Any]
    embedding: Mapping[str, Any] | None
    versions: Mapping[str, str]
    runtime: Mapping[str, Any] = field(default_factory=dict)
    #: The exact command lines of programs that ran.
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workplace:
    """The folders of one build: `folder` is filled and then renamed to `final`."""

    folder: Path
    final: Path
    scratch: Path
    journal: Journal


class Target(Protocol):
    """One kind of engine."""

    name: TargetName
    #: Increase it whenever the same inputs would give other artefacts.
    version: int

    def plan(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> Plan:
        """Returns the plan of a build. Raises: CheckpointError, PlanError."""

    def check(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> None:
        """Refuses a model that cannot be built on this machine. Raises: PlanError."""

    def parameters(self, model: Model, folder: Path) -> Mapping[str, str]:
        """Returns the parameters of `config.pbtxt` for artefacts in `folder`."""

    def build(
        self, model: Model, checkpoint: Checkpoint, plan: Plan, place: Workplace
    ) -> BuiltEngine:
        """Writes the artefacts into `place.folder`. Raises: CheckpointError, PlanError."""

    def self_test(self, model: Model, place: Workplace) -> Mapping[str, Any]:
        """Runs the engine on the golden prompts; returns the document `selftest.json`.

        The folder must already hold manifest and configuration. Raises: SelfTestError.
        """
