"""The special tokens of a checkpoint, read from the files that may name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from build_engines.checkpoint.files import Checkpoint, CheckpointError
from build_engines.checkpoint.network import text_config


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens. `end_id` and each of `extra_end_ids` end a generation."""

    bos_id: int | None
    end_id: int | None
    extra_end_ids: tuple[int, ...]
    pad_id: int | None

    def to_json(self) -> dict[str, Any]:
        """Returns the `tokens` table of the manifest."""
        return {
            "bos_id": self.bos_id,
            "end_id": self.end_id,
            "extra_end_ids": list(self.extra_end_ids),
            "pad_id": self.pad_id,
        }


def special_tokens(checkpoint: Checkpoint) -> SpecialTokens:
    """Reads generation_config.json first, then config.json, then the tokenizer's files.

    Raises: CheckpointError when a token lies outside the vocabulary.
    """
    tokenizer = checkpoint.optional_json("tokenizer.json") or {}
    ids = _vocabulary(tokenizer)
    size = int(text_config(checkpoint.config)["vocab_size"])
    if ids and max(ids.values()) >= size:
        raise CheckpointError(
            f"tokenizer.json reaches token {max(ids.values())}, "
            f"config.json's `vocab_size` is {size}"
        )
    sources = [checkpoint.optional_json("generation_config.json") or {}, checkpoint.config]
    named = checkpoint.optional_json("tokenizer_config.json") or {}
    found = {
        name: _ids(name, sources, named, ids) for name in ("bos_token", "eos_token", "pad_token")
    }
    for name, values in found.items():
        # Some checkpoints use a padding of -1 for "none".
        wrong = [value for value in values if value >= size or value < -1]
        if wrong:
            raise CheckpointError(
                f"`{name}_id` is {wrong[0]}, config.json's `vocab_size` is {size}"
            )
    first = {name: next((v for v in values if v >= 0), None) for name, values in found.items()}
    return SpecialTokens(
        bos_id=first["bos_token"],
        end_id=first["eos_token"],
        extra_end_ids=tuple(found["eos_token"][1:]),
        pad_id=first["pad_token"],
    )


def check_end(checkpoint: Checkpoint) -> SpecialTokens:
    """Returns the special tokens of a generative model. Raises: CheckpointError."""
    tokens = special_tokens(checkpoint)
    if tokens.end_id is None:
        raise CheckpointError("no end token: `eos_token_id` is missing in generation_config.json")
    return tokens


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
