"""Builds one model of the catalogue: checks, plans, converts, tests, puts into service."""

from __future__ import annotations

import errno
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from build_engines.checkpoint.families import check_served
from build_engines.checkpoint.files import (
    TOKENIZER_FILES,
    Checkpoint,
    CheckpointError,
    open_checkpoint,
)
from build_engines.checkpoint.hub import locate
from build_engines.checkpoint.tokens import check_end, special_tokens
from build_engines.golden import selftest
from build_engines.host.machine import Machine, this_machine
from build_engines.host.program import ProgramError
from build_engines.journal import Journal, Progress
from build_engines.plan import Plan, PlanError, check_host, size
from build_engines.repository import manifest
from build_engines.repository.configuration import ConfigurationError, render_config
from build_engines.repository.versions import CONFIG_FILE, Repository, RepositoryError
from build_engines.targets.target import BuiltEngine, Target, Workplace
from orchestrator.contract.catalogue import Model

Status = Literal["built", "up_to_date", "would_build", "rolled_back", "failed"]

_FAILURES = (
    CheckpointError,
    PlanError,
    ConfigurationError,
    RepositoryError,
    selftest.SelfTestError,
    ProgramError,
)


class BuildError(RuntimeError):
    """One model could not be built; the text is one sentence for the operator.

    `log` is the log file with the details; None when the build did not start.
    """

    def __init__(self, text: str, log: Path | None = None) -> None:
        super().__init__(text)
        self.log = log


@dataclass(frozen=True, slots=True)
class Result:
    """The result for one model. `version` is the one that is served."""

    model: str
    name: str
    status: Status
    duration_s: float
    version: int | None = None
    note: str | None = None
    plan: Mapping[str, Any] | None = None
    error: str | None = None
    log: str | None = None


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds models for one target into one repository. Checkpoint paths are relative to `root`."""

    repository: Repository
    target: Target
    root: Path
    command: str
    machine: Machine | None = None

    def build(
        self,
        model: Model,
        progress: Progress,
        on_plan: Callable[[Plan], None] = lambda _plan: None,
        *,
        force: bool = False,
        dry_run: bool = False,
    ) -> Result:
        """Builds `model` unless it is up to date. Raises: BuildError."""
        started = time.monotonic()
        model = replace(model, engine=model.engine.for_target(self.target.name))
        with _translated(model, self.repository):
            status, plan = self._build(model, progress, on_plan, force=force, dry_run=dry_run)
        served = self.repository.served_version(model.name)
        return Result(
            model.id,
            model.name,
            status,
            round(time.monotonic() - started, 3),
            version=served,
            note=self._note(model, served) if status == "up_to_date" else None,
            plan=plan.to_json() if plan is not None else None,
        )

    def roll_back(self, model: Model) -> Result:
        """Serves the previous version; a second call reverts that. Raises: BuildError."""
        started = time.monotonic()
        with _translated(model, self.repository):
            version_number = self.repository.roll_back(model.name)
        elapsed = round(time.monotonic() - started, 3)
        return Result(model.id, model.name, "rolled_back", elapsed, version=version_number)

    def _build(
        self,
        model: Model,
        progress: Progress,
        on_plan: Callable[[Plan], None],
        *,
        force: bool,
        dry_run: bool,
    ) -> tuple[Status, Plan | None]:
        location = locate(model.engine, self.root)
        checkpoint = open_checkpoint(location.path, revision=location.revision)
        check_served(checkpoint.architecture, model.task, self.target.name)
        if model.task == "generate":
            check_end(checkpoint)
        template = self.repository.template(model.task)
        recipe = manifest.recipe(model, self.target.name, self.target.version, template)
        if not force and self._current_version(model, checkpoint, recipe) is not None:
            return "up_to_date", None
        machine = self.machine or this_machine()
        plan = self._plan(model, checkpoint, machine)
        on_plan(plan)
        if dry_run:
            return "would_build", plan
        self.target.check(model, checkpoint, machine)
        check_host(plan, machine)
        self._check_disk(model, plan)
        work = _Work(self, model, checkpoint, recipe, plan)
        work.run(progress, compare=not force)
        return "built", plan

    def _current_version(
        self, model: Model, checkpoint: Checkpoint, recipe: Mapping[str, Any]
    ) -> int | None:
        for number in self.repository.versions(model.name):
            folder = self.repository.version_folder(model.name, number)
            if manifest.is_current(folder, checkpoint, recipe):
                return number
        return None

    def _note(self, model: Model, served: int | None) -> str | None:
        newest = max(self.repository.versions(model.name), default=None)
        if served == newest:
            return None
        return (
            f"version {served} is served since a rollback; `--rollback` once more serves "
            f"version {newest}, `--force` builds anew"
        )

    def _plan(self, model: Model, checkpoint: Checkpoint, machine: Machine) -> Plan:
        plan = self.target.plan(model, checkpoint, machine)
        for number in self.repository.versions(model.name):
            folder = self.repository.version_folder(model.name, number)
            last = manifest.read_manifest(folder)
            if last is not None and last["target"] == self.target.name:
                stages = last.get("stages", {})
                return replace(plan, expected_s=last["duration_s"], stages=stages)
        return plan

    def _check_disk(self, model: Model, plan: Plan) -> None:
        free = shutil.disk_usage(self.repository.path).free
        if free < plan.disk_bytes:
            raise BuildError(
                f"{model.id}: the disk of {self.repository.path} has {size(free)} free, "
                f"the engine needs about {size(plan.disk_bytes)}"
            )


@contextmanager
def _translated(model: Model, repository: Repository) -> Iterator[None]:
    """Turns a build's errors into one sentence, with the path of the log."""
    try:
        yield
    except _FAILURES as error:
        raise BuildError(f"{model.id}: {error}", _log_of(error)) from error
    except MemoryError as error:
        raise BuildError(f"{model.id}: there is not enough memory", _log_of(error)) from error
    except OSError as error:
        text = f"{model.id}: {error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            text = f"{model.id}: the disk of {repository.path} is full"
        raise BuildError(text, _log_of(error)) from error


def _log_of(error: BaseException) -> Path | None:
    return getattr(error, "log", None)


@dataclass(frozen=True, slots=True)
class _Work:
    """One build, from its first stage until its version is served."""

    builder: Builder
    model: Model
    checkpoint: Checkpoint
    recipe: Mapping[str, Any]
    plan: Plan

    def run(self, progress: Progress, *, compare: bool) -> None:
        """Adds a version. `compare` refuses answers that differ from the previous version's."""
        repository, name = self.builder.repository, self.model.name
        journal = Journal(repository.log_file(name), progress)
        for line in self.plan.lines():
            journal.write(line)
        try:
            with repository.adding(name) as (fresh, number):
                scratch = fresh / ".scratch"
                scratch.mkdir()
                final = repository.version_folder(name, number)
                self._fill(Workplace(fresh, final, scratch, journal), number, compare=compare)
            journal.write(f"version {number} is served")
        except BaseException as error:
            journal.write(f"failed: {error!r}\n{traceback.format_exc()}")
            error.log = journal.path  # type: ignore[attr-defined]  # read by `_log_of`
            raise

    def _fill(self, place: Workplace, number: int, *, compare: bool) -> None:
        started = time.monotonic()
        folder, journal, target = place.folder, place.journal, self.builder.target
        journal.stage("hashing the checkpoint")
        files = manifest.checkpoint_files(self.checkpoint)
        manifest.check_hashes(self.model, self.checkpoint, files)
        engine = target.build(self.model, self.checkpoint, self.plan, place)
        for name in TOKENIZER_FILES:
            if (self.checkpoint.path / name).is_file():
                shutil.copyfile(self.checkpoint.path / name, folder / name)
        self._write_config(folder, place.folder, number)
        document = self._describe(engine)
        manifest.write_manifest(folder, document)
        journal.stage("testing the engine")
        answers = target.self_test(self.model, place)
        if compare:
            self._compare(answers, files)
        selftest.write_document(folder, answers)
        shutil.rmtree(place.scratch, ignore_errors=True)
        self._write_config(folder, place.final, number)
        journal.end()
        document["duration_s"] = round(time.monotonic() - started, 3)
        document["stages"] = dict(journal.stages)
        document["checkpoint"]["files"] = {name: f["sha256"] for name, f in files.items()}
        document["checkpoint"]["sha256"] = manifest.digest(files)
        document["recipe"] = dict(self.recipe)
        document["inputs"] = {name: [f["size"], f["mtime_ns"]] for name, f in files.items()}
        document.update(manifest.artefacts(folder))
        manifest.write_manifest(folder, document)

    def _write_config(self, folder: Path, artefacts: Path, number: int) -> None:
        config = render_config(
            self.builder.repository.template(self.model.task),
            self.model,
            backend=self.plan.backend,
            parameters=self.builder.target.parameters(self.model, artefacts),
            version=number,
            instance_kind="KIND_GPU" if self.plan.backend == "trtllm_embed" else "KIND_CPU",
        )
        (folder / CONFIG_FILE).write_text(config, encoding="utf-8")

    def _compare(self, answers: Mapping[str, Any], files: manifest.Files) -> None:
        """Checks that the same weights in the same precision answer as in the served version."""
        repository, name = self.builder.repository, self.model.name
        number = repository.served_version(name)
        if number is None:
            return
        folder = repository.version_folder(name, number)
        before, golden = manifest.read_manifest(folder), selftest.read_document(folder)
        if before is None or golden is None or golden["task"] != answers["task"]:
            return
        is_same = (
            before["checkpoint"].get("sha256") == manifest.digest(files)
            and before["target"] == self.builder.target.name
            and before["recipe"]["engine"]["dtype"] == self.model.engine.dtype
        )
        if is_same:
            what = f"differs from version {number}, built of the same weights"
            selftest.check_same(golden, answers, what, inputs=False)

    def _describe(self, engine: BuiltEngine) -> dict[str, Any]:
        model, plan = self.model, self.plan
        return {
            "format": manifest.FORMAT,
            "model": model.id,
            "name": model.name,
            "task": model.task,
            "target": plan.target,
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self.builder.command,
            "commands": list(engine.commands),
            "versions": {"numpy": version("numpy"), **engine.versions},
            "limits": dict(engine.limits),
            "tokens": special_tokens(self.checkpoint).to_json(),
            "features": dict(engine.features),
            "embedding": None if engine.embedding is None else dict(engine.embedding),
            "runtime": dict(engine.runtime),
            "checkpoint": {
                "path": model.engine.checkpoint,
                "revision": self.checkpoint.revision,
                "architecture": self.checkpoint.architecture,
            },
        }
