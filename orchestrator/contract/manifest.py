"""What the builder recorded about a built model: `<repository>/<name>/<version>/manifest.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PrefixCache = Literal["", "salted", "shared", "off"]
FORMAT = 1
NO_TOKEN = -1
"""The end id for engines that no token has."""

_SERVED = re.compile(r"version_policy\s*:?\s*{\s*specific\s*:?\s*{\s*versions\s*:\s*\[?\s*(\d+)")


class ManifestError(ValueError):
    """The manifest is missing or unusable; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A built model's limits and token ids, and the folder of its artefacts.

    `prefix_cache` says which requests share cached prompts: with `salted` those with the same salt,
    with `shared` all, with `off` none; it is empty if unknown.
    `vocab_size` is the width of the engine's logits, which may be larger than the tokenizer's.
    `extra_end_ids` end an answer like `end_id`. `dimension` is 0 for a generative model.
    `guides` are the kinds of guided decoding that the engine supports, with TensorRT-LLM's names.
    `supports_top_log_probs` means alternatives to the sampled token, which TensorRT-LLM lacks.
    """

    directory: Path
    model: str
    task: str
    target: str
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    vocab_size: int
    end_id: int
    extra_end_ids: tuple[int, ...]
    pad_id: int | None
    reports_finish_reason: bool
    supports_min_p: bool
    dimension: int
    guides: tuple[str, ...] = ()
    supports_log_probs: bool = False
    supports_top_log_probs: bool = False
    reports_perf_metrics: bool = False
    tokens_per_block: int = 0
    prefix_cache: PrefixCache = ""


def served_version(model_directory: Path) -> Path | None:
    """Returns the version folder that Triton serves: named by `config.pbtxt`, or else the newest.

    Returns None when it holds no manifest.
    """
    if not model_directory.is_dir():
        return None
    versions = {
        int(entry.name): entry
        for entry in model_directory.iterdir()
        if entry.name.isdigit() and (entry / "manifest.json").is_file()
    }
    config = model_directory / "config.pbtxt"
    named = _SERVED.search(config.read_text(encoding="utf-8")) if config.is_file() else None
    return versions.get(int(named[1]) if named else max(versions, default=0))


def read_manifest(directory: Path) -> Manifest:
    """Reads the manifest in the version folder `directory`. Raises: ManifestError."""
    path = directory / "manifest.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ManifestError(f"{path}: format {document['format']}, this version reads {FORMAT}")
        return _manifest(directory, document)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ManifestError(f"{path}: {type(error).__name__}: {error}") from error


def _manifest(directory: Path, document: Mapping[str, Any]) -> Manifest:
    limits, tokens = document["limits"], document.get("tokens") or {}
    features, embedding = document.get("features") or {}, document.get("embedding") or {}
    return Manifest(
        directory=directory,
        model=document["model"],
        task=document["task"],
        target=document["target"],
        max_batch_size=limits["max_batch_size"],
        max_input_len=limits["max_input_len"],
        max_seq_len=limits["max_seq_len"],
        vocab_size=limits["vocab_size"],
        end_id=NO_TOKEN if tokens.get("end_id") is None else tokens["end_id"],
        extra_end_ids=tuple(tokens.get("extra_end_ids") or ()),
        pad_id=tokens.get("pad_id"),
        reports_finish_reason=bool(features.get("finish_reason")),
        supports_min_p=bool(features.get("min_p")),
        dimension=embedding.get("dimension", 0),
        guides=tuple(features.get("guided") or ()),
        supports_log_probs=bool(features.get("log_probs")),
        supports_top_log_probs=bool(features.get("top_log_probs")),
        reports_perf_metrics=bool(features.get("perf_metrics")),
        tokens_per_block=limits.get("tokens_per_block", 0),
        prefix_cache=features.get("prefix_cache", ""),
    )
