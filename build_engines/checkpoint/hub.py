"""Finds a checkpoint: in a folder, or as a revision of a hub repository in the local cache.

The cache is read without the hub's client, so a cache folder that was copied to a machine without
network works unchanged. Source: huggingface_hub, "Understand caching".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from build_engines.checkpoint.files import TOKENIZER_FILES, CheckpointError
from orchestrator.contract.catalogue import EngineRecipe

_HUB_ID = re.compile(r"(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})

#: Never pickles: code that is not fetched cannot run.
WANTED = ("config.json", *TOKENIZER_FILES, "modules.json", "*_Pooling/config.json")
WEIGHTS = ("*.safetensors", "model.safetensors.index.json", "hf_quant_config.json")


@dataclass(frozen=True, slots=True)
class Location:
    """A folder with a checkpoint; `revision` is its commit if it came from the hub."""

    path: Path
    revision: str | None = None


def locate(
    recipe: EngineRecipe, root: Path, environment: Mapping[str, str] | None = None
) -> Location:
    """Returns the folder of the recipe's checkpoint, fetched if needed. Raises: CheckpointError."""
    environment = os.environ if environment is None else environment
    folder = root / recipe.checkpoint
    hub = _HUB_ID.fullmatch(recipe.checkpoint)
    if folder.is_dir() or hub is None:
        return Location(folder, recipe.revision)
    revision = recipe.revision or hub["revision"]
    if revision is None:
        raise CheckpointError(
            f"checkpoint `{recipe.checkpoint}` is no folder, and as a hub id it needs a `revision`"
        )
    cache = cache_folder(environment)
    found = cached(cache, hub["id"], revision)
    if found is not None:
        return found
    return _fetch(hub["id"], revision, cache, environment)


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Returns the cache folder of the hub's client."""
    if folder := environment.get("HF_HUB_CACHE"):
        return Path(folder)
    home = environment.get("HF_HOME")
    if home is None:
        general = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        home = str(Path(general) / "huggingface")
    return Path(home) / "hub"


def cached(cache: Path, hub_id: str, revision: str) -> Location | None:
    """Returns the snapshot of `revision` in the cache; None when it is missing or incomplete."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    commit = revision
    if not _COMMIT.fullmatch(revision):
        try:
            commit = (repository / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    snapshot = repository / "snapshots" / commit
    is_complete = _has_weights(snapshot) and (snapshot / "config.json").is_file()
    return Location(snapshot, commit) if is_complete else None


def _has_weights(snapshot: Path) -> bool:
    """Whether all weight files exist: a fetch may have been interrupted."""
    try:
        index = json.loads((snapshot / "model.safetensors.index.json").read_bytes())
        shards = set(index["weight_map"].values())
    except (OSError, ValueError, KeyError):
        shards = {"model.safetensors"}
    return all((snapshot / shard).is_file() for shard in shards)


def is_offline(environment: Mapping[str, str]) -> bool:
    """Whether the hub must not be contacted."""
    return environment.get("HF_HUB_OFFLINE", "").upper() in _TRUE


def _fetch(hub_id: str, revision: str, cache: Path, environment: Mapping[str, str]) -> Location:
    missing = f"checkpoint `{hub_id}` at `{revision}` is not in the cache {cache}"
    if is_offline(environment):
        raise CheckpointError(f"{missing}, and HF_HUB_OFFLINE forbids to fetch it")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"{missing}; to fetch it install `huggingface_hub`, or carry the folder here"
        ) from error
    try:
        path = snapshot_download(
            hub_id, revision=revision, cache_dir=cache, allow_patterns=[*WANTED, *WEIGHTS]
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{missing} and cannot be fetched: {reason}") from error
    return Location(Path(path), Path(path).name)
