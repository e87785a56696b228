"""The special tokens of a checkpoint, gathered from the files that may name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from build_engines.checkpoint import Checkpoint, CheckpointError


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """`end_id` ends a generation, and so does each of `extra_end_ids`."""

    bos_id: int | None
    end_id: int | None
    extra_end_ids: tuple[int, ...]
    pad_id: int | None

    def to_json(self) -> dict[str, Any]:
        """The `tokens` table of the manifest."""
        return {
            "bos_id": self.bos_id,
            "end_id": self.end_id,
            "extra_end_ids": list(self.extra_end_ids),
            "pad_id": self.pad_id,
        }


def special_tokens(checkpoint: Checkpoint) -> SpecialTokens:
    """generation_config.json is asked first, then config.json, then the tokenizer's files.

    Raises: CheckpointError when a token lies outside the vocabulary.
    """
    tokenizer = checkpoint.optional_json("tokenizer.json") or {}
    ids = _vocabulary(tokenizer)
    size = int(checkpoint.config["vocab_size"])
    if ids and max(ids.values()) >= size:
        raise CheckpointError(
            f"tokenizer.json reaches token {max(ids.values())}, "
            f"config.json's `vocab_size` is {size}"
        )
    sources = [checkpoint.optional_json("generation_config.json") or {}, checkpoint.config]
    named = checkpoint.optional_json("tokenizer_config.json") or {}
    ends = _ids("eos_token", sources, named, ids)
    return SpecialTokens(
        bos_id=next(iter(_ids("bos_token", sources, named, ids)), None),
        end_id=ends[0] if ends else None,
        extra_end_ids=tuple(ends[1:]),
        pad_id=next(iter(_ids("pad_token", sources, named, ids)), None),
    )


def _vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    vocab = tokenizer.get("model", {}).get("vocab", {})
    if isinstance(vocab, list):  # Unigram: pairs of piece and score
        vocab = {piece: index for index, (piece, _) in enumerate(vocab)}
    added = {token["content"]: int(token["id"]) for token in tokenizer.get("added_tokens", [])}
    return {**vocab, **added}


def _ids(
    name: str, sources: list[Mapping[str, Any]], named: Mapping[str, Any], ids: Mapping[str, int]
) -> list[int]:
    for source in sources:
        value = source.get(f"{name}_id")
        if isinstance(value, int):
            return [value]
        if isinstance(value, list) and value:
            return [int(item) for item in value]
    text = named.get(name)
    if isinstance(text, Mapping):
        text = text.get("content")
    return [ids[text]] if isinstance(text, str) and text in ids else []
