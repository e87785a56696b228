"""`manifest.json`: what an engine was built from, and whether it is up to date."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from build_engines.checkpoint.files import Checkpoint, CheckpointError, sha256_file
from orchestrator.contract.catalogue import Model

FILE_NAME = "manifest.json"
FORMAT = 1

#: By file: `sha256`, `size`, `mtime_ns`.
Files = Mapping[str, Mapping[str, Any]]

_SHA256 = re.compile(r"[0-9a-f]{64}")

#: Increase it whenever this package would lay out the same model differently.
BUILDER_VERSION = 2


def recipe(model: Model, target: str, target_version: int, template: str) -> dict[str, Any]:
    """Returns all inputs of the build except the checkpoint. `model` is for one target."""
    return {
        "builder": BUILDER_VERSION,
        "target": target,
        "target_version": target_version,
        "template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "name": model.name,
        "task": model.task,
        "context_tokens": model.context_tokens,
        "engine": asdict(replace(model.engine, sha256=None)),
    }


def checkpoint_files(checkpoint: Checkpoint) -> Files:
    """Returns size, modification time and hash of every file that the build reads."""
    return {
        str(file.relative_to(checkpoint.path)): {
            "sha256": sha256_file(file),
            "size": file.stat().st_size,
            "mtime_ns": file.stat().st_mtime_ns,
        }
        for file in checkpoint.files()
    }


def digest(files: Files) -> str:
    """Returns a hash of the names and hashes of all files; the catalogue's `sha256` pins it."""
    lines = "".join(f"{file['sha256']}  {name}\n" for name, file in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_hashes(model: Model, checkpoint: Checkpoint, files: Files) -> None:
    """Compares the files with their known hashes. Raises: CheckpointError.

    The hub's cache names a large file by its hash; the catalogue may pin all files.
    """
    for name, file in files.items():
        known = (checkpoint.path / name).resolve().name
        if _SHA256.fullmatch(known) and known != file["sha256"]:
            raise CheckpointError(
                f"checkpoint {checkpoint.path}: file `{name}` is damaged: its SHA-256 is "
                f"{file['sha256'][:12]}…, the hub's is {known[:12]}…"
            )
    pinned = model.engine.sha256
    if pinned is not None and pinned != digest(files):
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: its files have the digest {digest(files)}, "
            f"the catalogue pins `sha256` {pinned}"
        )


def artefacts(folder: Path) -> dict[str, Any]:
    """Returns hash, size and modification time of a version's files, without the manifest."""
    files = [
        file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != FILE_NAME
    ]
    names = [str(file.relative_to(folder)) for file in files]
    return {
        "files": {name: sha256_file(file) for name, file in zip(names, files, strict=True)},
        "artefacts": {
            name: [file.stat().st_size, file.stat().st_mtime_ns]
            for name, file in zip(names, files, strict=True)
        },
    }


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Returns the manifest of the engine in `folder`; None if there is no readable one."""
    try:
        document = json.loads((folder / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("format") == FORMAT else None


def write_manifest(folder: Path, document: Mapping[str, Any]) -> None:
    """Writes `document` into `folder`."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def is_current(folder: Path, checkpoint: Checkpoint, wanted: Mapping[str, Any]) -> bool:
    """Whether `folder` holds an engine of exactly this recipe and checkpoint.

    Files with the same size and modification time count as unchanged; others are hashed.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("recipe") != wanted:
        return False
    built = {name: folder / name for name in manifest["files"]}
    if not _are_unchanged(built, manifest["artefacts"], manifest["files"]):
        return False
    read = {str(file.relative_to(checkpoint.path)): file for file in checkpoint.files()}
    return _are_unchanged(read, manifest["inputs"], manifest["checkpoint"]["files"])


def _are_unchanged(
    files: Mapping[str, Path], states: Mapping[str, list[int]], hashes: Mapping[str, str]
) -> bool:
    if files.keys() != hashes.keys():
        return False
    for name, file in files.items():
        if not file.is_file():
            return False
        stat = file.stat()
        if [stat.st_size, stat.st_mtime_ns] == states[name]:
            continue
        if stat.st_size != states[name][0] or sha256_file(file) != hashes[name]:
            return False
    return True
