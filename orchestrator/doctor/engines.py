"""Checks Triton as it is installed, and every model of the catalogue as it was built."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Set
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.contract.catalogue import CatalogueError, Model, load_catalogue
from orchestrator.contract.manifest import ManifestError
from orchestrator.doctor import machine
from orchestrator.doctor.finding import Finding, failed, ok, warning
from orchestrator.models.built import read_built
from orchestrator.rendering import RenderingError
from orchestrator.settings import Settings
from orchestrator.supervisor.installation import Installation, StartError, find_server

_TRITON_OF_WHEEL = {"0.7.0": "2.51.0"}
"""Source: the wheels' own tritonserver, asked for its metadata."""
_CHUNK_BYTES = 1024 * 1024
_ENGINE_PATH = re.compile(r'key: "gpt_model_path"\s*value { string_value: ("(?:[^"\\]|\\.)*") }')


def server(settings: Settings) -> list[Finding]:
    """Checks the Triton that would be started; a remote one is not installed by us."""
    if settings.triton.mode == "remote":
        return []
    try:
        installation = find_server(settings.triton.server_root)
    except StartError as error:
        return [failed("triton", str(error), "run `make run`, or check triton.server_root")]
    if isinstance(installation, Installation):
        wheel = metadata.version("nvidia-pytriton")
        version = _TRITON_OF_WHEEL.get(wheel)
        known = f"{version}, " if version else ""
        return [ok("triton", f"{known}of nvidia-pytriton {wheel}")]
    told = settings.triton.server_root / "TRITON_VERSION" if settings.triton.server_root else None
    version = told.read_text(encoding="utf-8").strip() if told and told.is_file() else "version ?"
    return [ok("triton", f"{version}, {installation.server}")]


def models(settings: Settings, *, deep: bool) -> list[Finding]:
    """Checks each model: manifest, artefacts, tokenizer."""
    try:
        catalogue = load_catalogue(settings.catalogue)
    except CatalogueError as error:
        return [failed("catalogue", str(error), "correct that file")]
    count = len(catalogue.models)
    findings = [ok("catalogue", f"{count} models in {settings.catalogue}")]
    if not count:
        findings = [warning("catalogue", "no models", f"add one to {settings.catalogue}")]
    # A remote Triton's folder of engines and its GPU cannot be seen from here.
    gpus = machine.compute_capabilities() if settings.triton.mode == "child" else None
    repository = settings.triton.repository
    return findings + [_model(repository, one, gpus, deep=deep) for one in catalogue.models]


def _model(repository: Path, model: Model, gpus: Set[str] | None, *, deep: bool) -> Finding:
    subject, again = f"model {model.id}", f"build it again: `make engines`, model {model.name}"
    if not (repository / model.name).is_dir():
        return warning(subject, f"not built in {repository}", "run `make engines`")
    try:
        # Reads manifest, tokenizer and template exactly as the server does.
        manifest = read_built(repository, model).manifest
    except (ManifestError, RenderingError) as error:
        return failed(subject, str(error), again)
    if fault := damage(manifest.directory, deep=deep):
        return failed(subject, f"version {manifest.directory.name}: {fault}", again)
    if gpus is not None and (fault := misfit(manifest.directory, gpus)):
        return failed(subject, f"version {manifest.directory.name}: {fault}", again)
    if model.task == "generate" and not manifest.prefix_cache:
        told = f"version {manifest.directory.name} may show tenants what others have sent"
        return warning(subject, told, again)
    looked = "hashes right" if deep else "all files there"
    text = f"version {manifest.directory.name} for {manifest.target}, {looked}"
    replaced = gpus is not None and replaced_type(manifest.directory)
    return ok(subject, f"{text}; {replaced}" if replaced else text)


def damage(directory: Path, *, deep: bool) -> str:
    """Returns what is wrong with the artefacts of a version folder, or an empty text.

    Compares sizes with the manifest; with `deep`, hashes too.
    """
    document: Mapping[str, Any] = json.loads(
        (directory / "manifest.json").read_text(encoding="utf-8")
    )
    sizes: Mapping[str, Any] = document.get("artefacts") or {}
    for name, digest in (document.get("files") or {}).items():
        path = directory / name
        if not path.is_file():
            return f"`{name}` is missing"
        size = path.stat().st_size
        if name in sizes and size != sizes[name][0]:
            return f"`{name}` has {size} bytes, {sizes[name][0]} were built"
        if deep and _sha256(path) != digest:
            return f"`{name}` is not what was built: its hash differs"
    return ""


def misfit(directory: Path, capabilities: Set[str]) -> str:
    """Returns why an engine for GPUs will not run here, or an empty text.

    `capabilities` are the compute capabilities of this machine's GPUs.
    """
    document = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    built = (document.get("runtime") or {}).get("compute_capability")
    if built and built not in capabilities:
        here = ", ".join(sorted(capabilities)) or "no GPU"
        return f"built for GPUs of compute capability {built}, here is {here}"
    config = directory / "config.pbtxt"
    named = _ENGINE_PATH.search(config.read_text(encoding="utf-8")) if config.is_file() else None
    if named and not (engine := Path(json.loads(named[1]))).is_dir():
        return f"its configuration looks for the engine in {engine}: mount the repository there"
    return ""


def replaced_type(directory: Path) -> str:
    """Returns a sentence if this CPU lacks the type of an engine for CPUs, or an empty text."""
    document = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    dtype = (document.get("runtime") or {}).get("dtype")
    if document["target"] != "cpu" or dtype != "bfloat16":
        return ""
    try:
        # It would report its use to an analytics service: see build_engines/cpu/__init__.py.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # means "missing"
        # Imported where it is used: a CPU engine need not be installed, and the import is slow.
        import openvino

        known = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except (ImportError, RuntimeError):
        return ""
    return "" if "BF16" in known else "this CPU has no bfloat16, it computes in float32"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
