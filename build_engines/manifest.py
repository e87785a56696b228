"""`manifest.json`: what an engine was built from, and whether that is still so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from build_engines.checkpoint import Checkpoint, sha256_file
from orchestrator.catalogue import Model

FILE_NAME = "manifest.json"
FORMAT = 1

#: Raised whenever this package would lay out the same model differently.
BUILDER_VERSION = 1


def recipe(model: Model, target: str, target_version: int, template: str) -> dict[str, Any]:
    """Everything beside the checkpoint that shapes the artefacts."""
    return {
        "builder": BUILDER_VERSION,
        "target": target,
        "target_version": target_version,
        "template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "name": model.name,
        "task": model.task,
        "context_tokens": model.context_tokens,
        "engine": asdict(model.engine),
    }


def checkpoint_files(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Size, modification time and hash of every file that the build reads."""
    return {
        str(file.relative_to(checkpoint.path)): {
            "sha256": sha256_file(file),
            "size": file.stat().st_size,
            "mtime_ns": file.stat().st_mtime_ns,
        }
        for file in checkpoint.files()
    }


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the engine in `folder`; None if there is none that can be read."""
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
    """Whether `folder` holds an engine of just this recipe and checkpoint.

    Files of unchanged size and modification time count as unchanged; others are hashed.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("recipe") != wanted:
        return False
    if not all((folder / name).is_file() for name in manifest["files"]):
        return False
    state, hashes = manifest["inputs"], manifest["checkpoint"]["files"]
    files = {str(file.relative_to(checkpoint.path)): file for file in checkpoint.files()}
    if files.keys() != hashes.keys():
        return False
    for name, file in files.items():
        stat = file.stat()
        if [stat.st_size, stat.st_mtime_ns] == state[name]:
            continue
        if stat.st_size != state[name][0] or sha256_file(file) != hashes[name]:
            return False
    return True
