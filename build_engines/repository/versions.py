"""Triton's model repository: several versions of a model, one of which Triton serves.

`<name>/config.pbtxt` names the version that is served. Every version folder holds its own
configuration, so a version is put into service by replacing one file.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG_FILE = "config.pbtxt"
MANIFEST_FILE = "manifest.json"

_SERVED = re.compile(r"version_policy\s*:?\s*{\s*specific\s*:?\s*{\s*versions\s*:\s*\[?\s*(\d+)")


class RepositoryError(ValueError):
    """The repository does not hold what was requested; the text is one sentence."""


class Repository:
    """A model repository folder with its `templates`."""

    def __init__(self, path: Path, templates: Path) -> None:
        self.path = path
        self._templates = templates

    def template(self, name: str) -> str:
        """Returns the `config.pbtxt` template called `name`."""
        return (self._templates / f"{name}.pbtxt").read_text(encoding="utf-8")

    def log_file(self, name: str) -> Path:
        """Returns the log file of the last build of model `name`."""
        return self.path / ".logs" / f"{name}.log"

    def versions(self, name: str) -> list[int]:
        """Returns the finished versions of model `name`, the newest first."""
        folder = self.path / name
        if not folder.is_dir():
            return []
        found = [
            int(entry.name)
            for entry in folder.iterdir()
            if entry.name.isdigit()
            and (entry / MANIFEST_FILE).is_file()
            and (entry / CONFIG_FILE).is_file()
        ]
        return sorted(found, reverse=True)

    def version_folder(self, name: str, version: int) -> Path:
        """Returns the folder of a version's artefacts."""
        return self.path / name / str(version)

    def served_version(self, name: str) -> int | None:
        """Returns the version of model `name` that Triton serves; None when there is none."""
        try:
            text = (self.path / name / CONFIG_FILE).read_text(encoding="utf-8")
        except OSError:
            return None
        versions = self.versions(name)
        if named := _SERVED.search(text):
            return int(named[1]) if int(named[1]) in versions else None
        return versions[0] if versions else None

    @contextmanager
    def locked(self, say: Callable[[str], None] = lambda _text: None) -> Iterator[None]:
        """Locks the repository for one builder; calls `say` if it must wait."""
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
    def adding(self, name: str) -> Iterator[tuple[Path, int]]:
        """Yields an empty folder and its version, which is served if the block ends without error.

        The folder must then hold `config.pbtxt` and a manifest.
        """
        number = max((int(folder.name) for folder in self._numbered(name)), default=0) + 1
        fresh, pending = self.path / f".{name}.new", self.path / f".{name}.pending"
        before = self.served_version(name)
        fresh.mkdir()
        try:
            yield fresh, number
            _flush(fresh)
            (self.path / name).mkdir(exist_ok=True)
            pending.write_text(str(number), encoding="ascii")
            fresh.rename(self.version_folder(name, number))
            self.serve(name, number)
            pending.unlink()
            self._keep(name, {number, before})
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def serve(self, name: str, version: int) -> None:
        """Makes Triton serve `version`, atomically."""
        folder = self.path / name
        fresh = folder / f".{CONFIG_FILE}.new"
        shutil.copyfile(self.version_folder(name, version) / CONFIG_FILE, fresh)
        _sync(fresh)
        fresh.replace(folder / CONFIG_FILE)
        _sync(folder)

    def roll_back(self, name: str) -> int:
        """Serves the other version of `name`; a second call reverts. Raises: RepositoryError."""
        served = self.served_version(name)
        others = [version for version in self.versions(name) if version != served]
        if not others:
            what = "is not built" if served is None else f"has version {served} only"
            raise RepositoryError(f"model `{name}` {what}: there is nothing to go back to")
        self.serve(name, others[0])
        return others[0]

    def _keep(self, name: str, versions: set[int | None]) -> None:
        """Removes all versions except `versions`: old ones, or one that was rolled back."""
        for folder in self._numbered(name):
            if int(folder.name) not in versions:
                shutil.rmtree(folder, ignore_errors=True)

    def _numbered(self, name: str) -> list[Path]:
        """Returns the version folders, finished or not."""
        return [entry for entry in (self.path / name).glob("[0-9]*") if entry.name.isdigit()]

    def _clear_leftovers(self) -> None:
        """Cleans up after a killed builder: removes unfinished versions, serves a finished one."""
        for folder in self.path.glob(".*.new"):
            shutil.rmtree(folder, ignore_errors=True)
        for pending in self.path.glob(".*.pending"):
            name = pending.name.removeprefix(".").removesuffix(".pending")
            number = int(pending.read_text(encoding="ascii") or 0)
            if number in self.versions(name):
                self.serve(name, number)
            pending.unlink()


def _flush(folder: Path) -> None:
    """Syncs everything in `folder` to the disk, before the rename that follows."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
