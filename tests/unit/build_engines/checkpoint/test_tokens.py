from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from build_engines.checkpoint.files import Checkpoint, CheckpointError, open_checkpoint
from build_engines.checkpoint.tokens import check_end, special_tokens
from tests.reference.checkpoints import BOS_ID, END_ID, write_decoder


def checkpoint_with(folder: Path, **generation: Any) -> Checkpoint:
    write_decoder(folder, "llama", pad_token_id=-1)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return open_checkpoint(folder)


def test_generation_config_is_asked_first(tmp_path: Path) -> None:
    tokens = special_tokens(checkpoint_with(tmp_path / "x", eos_token_id=[5, 6]))
    assert (tokens.end_id, tokens.extra_end_ids, tokens.bos_id) == (5, (6,), BOS_ID)


def test_a_padding_of_minus_one_is_none(tmp_path: Path) -> None:
    tokens = special_tokens(checkpoint_with(tmp_path / "x"))
    assert (tokens.pad_id, tokens.end_id) == (None, END_ID)


def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_with(tmp_path / "x", eos_token_id=[5, 272])
    with pytest.raises(CheckpointError, match=r"`eos_token_id` is 272, .*`vocab_size` is 272"):
        special_tokens(checkpoint)


def test_a_model_that_generates_must_have_an_end(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "x", "llama", eos_token_id=None)
    for name in ("generation_config.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="no end token"):
        check_end(open_checkpoint(folder))
