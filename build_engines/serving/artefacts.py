"""A built model's folder, as its backend reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engines.serving.request import Limits


@dataclass(frozen=True, slots=True)
class Artefacts:
    """A built model's folder with its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def task(self) -> str:
        """`generate` or `embed`."""
        return str(self.manifest["task"])

    def limits(self, max_queue_size: int) -> Limits:
        """Returns the limits of the build, with the server's queue size."""
        limits = self.manifest["limits"]
        return Limits(
            max_batch_size=limits["max_batch_size"],
            max_queue_size=max_queue_size,
            max_input_len=limits["max_input_len"],
            max_seq_len=limits["max_seq_len"],
            vocab_size=limits["vocab_size"],
        )


def open_artefacts(folder: Path, target: str) -> Artefacts:
    """Opens the model in `folder`. Raises: ValueError when it was built for another engine."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    if manifest.get("target") != target:
        built = manifest.get("target")
        raise ValueError(f"{folder}: built for target `{built}`, not for `{target}`")
    return Artefacts(folder, manifest)


def check_runtime(
    artefacts: Artefacts, versions: Mapping[str, str], compute_capability: tuple[int, int]
) -> None:
    """Refuses an engine that was built for other software or another kind of GPU.

    TensorRT engines do not work anywhere else; some load anyway and give wrong answers.
    Raises: ValueError.
    """
    built = {name: artefacts.manifest["versions"].get(name) for name in versions}
    built["compute capability"] = artefacts.manifest["runtime"]["compute_capability"]
    here = {**versions, "compute capability": ".".join(map(str, compute_capability))}
    for name, value in here.items():
        if built[name] != value:
            raise ValueError(
                f"{artefacts.folder}: built with {name} {built[name]}, here is {value}: "
                "`make engines` builds it anew"
            )
