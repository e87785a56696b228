"""`orchestrator models`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.output import write_json, write_table
from orchestrator.contract.catalogue import Model, load_catalogue

if TYPE_CHECKING:
    from orchestrator.settings import Settings


def show_all(settings: Settings, *, as_json: bool) -> int:
    """Lists the catalogue and which models are built. Raises: CatalogueError."""
    models = load_catalogue(settings.catalogue).models
    built = {model.id: _built_versions(settings.triton.repository, model) for model in models}
    if as_json:
        entries = [
            {
                "id": model.id,
                "name": model.name,
                "task": model.task,
                "context_tokens": model.context_tokens,
                "aliases": list(model.aliases),
                "owned_by": model.owned_by,
                "built_versions": built[model.id],
            }
            for model in models
        ]
        write_json({"object": "list", "data": entries})
        return 0
    write_table(
        ("ID", "TASK", "CONTEXT", "BUILT", "ALIASES"),
        [
            (
                model.id,
                model.task,
                str(model.context_tokens),
                "yes" if built[model.id] else "no",
                ",".join(model.aliases) or "-",
            )
            for model in models
        ],
    )
    if not models:
        sys.stdout.write("The catalogue is empty.\n")
    return 0


def _built_versions(repository: Path, model: Model) -> list[int]:
    """Returns the versions with a manifest, which a build writes last."""
    manifests = (repository / model.name).glob("*/manifest.json")
    return sorted(int(found.parent.name) for found in manifests if found.parent.name.isdecimal())
