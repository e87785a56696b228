"""Reads what the builder wrote for a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.backends.triton.served import ServedModel
from orchestrator.contract.catalogue import Model
from orchestrator.contract.manifest import ManifestError, read_manifest, served_version
from orchestrator.core.request import SamplingParams
from orchestrator.rendering import Renderer


def read_built(repository: Path, model: Model) -> ServedModel:
    """Reads what was built for `model`. Raises: ManifestError, RenderingError."""
    directory = served_version(repository / model.name)
    if directory is None:
        raise ManifestError(f"{repository / model.name}: not built")
    manifest = read_manifest(directory)
    if manifest.task != model.task:
        raise ManifestError(f"{directory}: built for `{manifest.task}`, not `{model.task}`")
    renderer = Renderer(directory, parser=model.parser, reasoning=model.reasoning)
    return ServedModel(model, manifest, renderer, _sampling_defaults(directory))


def _sampling_defaults(directory: Path) -> SamplingParams:
    """Reads the sampling defaults of `generation_config.json`; greedy if it disables sampling."""
    path = directory / "generation_config.json"
    if not path.is_file():
        return SamplingParams()
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: {error}") from error
    if config.get("do_sample") is False:
        return SamplingParams(temperature=0.0)
    return SamplingParams(
        temperature=config.get("temperature"),
        top_p=config.get("top_p"),
        top_k=config.get("top_k"),
    )
