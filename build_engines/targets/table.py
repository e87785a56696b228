"""The table of targets, and the default target of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from build_engines.checkpoint.families import TargetName, family_of
from build_engines.checkpoint.files import CheckpointError, open_checkpoint
from build_engines.checkpoint.hub import locate
from build_engines.host.machine import Machine
from build_engines.targets.target import Target
from orchestrator.contract.catalogue import Model


def default_target(model: Model, root: Path, machine: Machine) -> TargetName:
    """Returns the best kind of engine that both this machine and the architecture support."""
    best = machine.default_target
    if best == "cpu":
        return best
    try:
        location = locate(model.engine.for_target(best), root)
        family = family_of(open_checkpoint(location.path).architecture)
    except CheckpointError:
        # The build reports what is wrong.
        return best
    names: tuple[TargetName, ...] = (best, "llmapi", "cpu")
    return next((name for name in names if name in family.targets), best)


def load_target(name: str) -> Target:
    """Returns the target called `name`, which must be one of `TARGETS`."""
    return TARGETS[name]()


def _cpu() -> Target:
    from build_engines.targets.cpu import CpuTarget

    return CpuTarget()


def _trtllm() -> Target:
    from build_engines.targets.trtllm import TrtLlmTarget

    return TrtLlmTarget()


def _llmapi() -> Target:
    from build_engines.targets.llmapi import LlmApiTarget

    return LlmApiTarget()


#: Loaded on demand: each imports the libraries of its engine only when it is used.
TARGETS: Mapping[str, Callable[[], Target]] = {"cpu": _cpu, "trtllm": _trtllm, "llmapi": _llmapi}
