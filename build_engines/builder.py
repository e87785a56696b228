"""Builds one model of the catalogue: checks, converts, describes, swaps in."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from build_engines import manifest
from build_engines.checkpoint import (
    TOKENIZER_FILES,
    Checkpoint,
    CheckpointError,
    open_checkpoint,
    sha256_file,
)
from build_engines.repository import Repository, render_config
from build_engines.target import BuiltEngine, Progress, Target
from build_engines.tokens import special_tokens
from orchestrator.catalogue import Model

Status = Literal["built", "up_to_date", "would_build", "failed"]


class BuildError(RuntimeError):
    """One model could not be built; the text is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one model."""

    model: str
    name: str
    status: Status
    duration_s: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds models for one target into one repository. Relative checkpoints start at `root`."""

    repository: Repository
    target: Target
    root: Path
    command: str

    def build(
        self, model: Model, progress: Progress, *, force: bool = False, dry_run: bool = False
    ) -> Result:
        """Builds `model` unless it is up to date. Raises: BuildError."""
        started = time.monotonic()
        try:
            status = self._build(model, progress, force=force, dry_run=dry_run)
        except CheckpointError as error:
            raise BuildError(f"{model.id}: {error}") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                text = f"{model.id}: the disk of {self.repository.path} is full"
                raise BuildError(text) from error
            raise BuildError(f"{model.id}: {error}") from error
        return Result(model.id, model.name, status, round(time.monotonic() - started, 3))

    def _build(self, model: Model, progress: Progress, *, force: bool, dry_run: bool) -> Status:
        checkpoint = open_checkpoint(self.root / model.engine.checkpoint)
        template = self.repository.template(model.task)
        recipe = manifest.recipe(model, self.target.name, self.target.version, template)
        folder = self.repository.version_folder(model.name)
        if not force and manifest.is_current(folder, checkpoint, recipe):
            return "up_to_date"
        if dry_run:
            return "would_build"
        self._check_disk(model, checkpoint)
        with self.repository.replacing(model.name) as fresh:
            self._write(model, checkpoint, recipe, fresh, progress)
        return "built"

    def _check_disk(self, model: Model, checkpoint: Checkpoint) -> None:
        needed = self.target.disk_bytes(model, checkpoint)
        free = shutil.disk_usage(self.repository.path).free
        if free < needed:
            raise BuildError(
                f"{model.id}: the disk of {self.repository.path} has {free >> 20} MiB free, "
                f"the engine needs about {(needed >> 20) + 1} MiB"
            )

    def _write(
        self,
        model: Model,
        checkpoint: Checkpoint,
        recipe: Mapping[str, Any],
        fresh: Path,
        progress: Progress,
    ) -> None:
        started = time.monotonic()
        folder = fresh / "1"
        folder.mkdir()
        progress("hashing the checkpoint")
        files = manifest.checkpoint_files(checkpoint)
        engine = self.target.build(model, checkpoint, folder, progress)
        for name in TOKENIZER_FILES:
            if (checkpoint.path / name).is_file():
                shutil.copyfile(checkpoint.path / name, folder / name)
        config = render_config(
            self.repository.template(model.task),
            model,
            backend=self.target.backend,
            parameters=self.target.parameters(model),
        )
        (fresh / "config.pbtxt").write_text(config, encoding="utf-8")
        artefacts = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
        document = self._describe(model, checkpoint, engine, started)
        document["checkpoint"]["files"] = {name: f["sha256"] for name, f in files.items()}
        document["files"] = artefacts
        document["recipe"] = dict(recipe)
        document["inputs"] = {name: [f["size"], f["mtime_ns"]] for name, f in files.items()}
        manifest.write_manifest(folder, document)
        _flush(fresh)

    def _describe(
        self, model: Model, checkpoint: Checkpoint, engine: BuiltEngine, started: float
    ) -> dict[str, Any]:
        return {
            "format": manifest.FORMAT,
            "model": model.id,
            "name": model.name,
            "task": model.task,
            "target": self.target.name,
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.monotonic() - started, 3),
            "command": self.command,
            "versions": {"numpy": version("numpy"), **engine.versions},
            "limits": dict(engine.limits),
            "tokens": special_tokens(checkpoint).to_json(),
            "features": dict(engine.features),
            "embedding": None if engine.embedding is None else dict(engine.embedding),
            "runtime": dict(engine.runtime),
            "checkpoint": {
                "path": model.engine.checkpoint,
                "revision": model.engine.revision,
                "architecture": checkpoint.architecture,
            },
        }


def _flush(folder: Path) -> None:
    """Everything in `folder` is on the disk: the rename that follows must not overtake it."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
