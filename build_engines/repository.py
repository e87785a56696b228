"""Triton's model repository: rendering `config.pbtxt`, putting a finished model in its place."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template

from orchestrator.catalogue import Model


class Repository:
    """A model repository folder with its `templates`."""

    def __init__(self, path: Path, templates: Path) -> None:
        self.path = path
        self._templates = templates

    def template(self, task: str) -> str:
        """The `config.pbtxt` template of a task."""
        return (self._templates / f"{task}.pbtxt").read_text(encoding="utf-8")

    def version_folder(self, name: str) -> Path:
        """Where the artefacts of model `name` lie."""
        return self.path / name / "1"

    @contextmanager
    def locked(self, say: Callable[[str], None] = lambda _text: None) -> Iterator[None]:
        """Only one builder at a time works on the repository; `say` is told of a wait."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another builder to finish")
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._clear_leftovers()
            yield

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """An empty folder that becomes model `name` when the block ends without an error."""
        fresh = self.path / f".{name}.new"
        old = self.path / f".{name}.old"
        fresh.mkdir()
        try:
            yield fresh
            if (self.path / name).exists():
                (self.path / name).rename(old)
            fresh.rename(self.path / name)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            self._settle(old)

    def _clear_leftovers(self) -> None:
        """What a killed builder left: unfinished models go, a model on its way out comes back."""
        for folder in self.path.glob(".*.new"):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self.path.glob(".*.old"):
            self._settle(folder)

    def _settle(self, old: Path) -> None:
        name = old.name.removeprefix(".").removesuffix(".old")
        if old.exists() and not (self.path / name).exists():
            old.rename(self.path / name)
        shutil.rmtree(old, ignore_errors=True)


def render_config(
    template: str,
    model: Model,
    *,
    backend: str,
    parameters: Mapping[str, str],
    instance_kind: str = "KIND_CPU",
) -> str:
    """`config.pbtxt` for `model`."""
    return Template(template).substitute(
        name=model.name,
        backend=backend,
        max_batch_size=model.engine.max_batch_size,
        instance_kind=instance_kind,
        parameters="".join(_parameter(key, value) for key, value in parameters.items()),
    )


def _parameter(key: str, value: str) -> str:
    # JSON's escapes are a subset of those of protobuf's text format.
    return (
        f"parameters {{\n  key: {json.dumps(key)}\n"
        f"  value {{ string_value: {json.dumps(value)} }}\n}}\n"
    )
