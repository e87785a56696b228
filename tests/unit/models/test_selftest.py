"""What of a replayed answer counts as the recorded one, and what does not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.contract.manifest import Manifest
from orchestrator.models.selftest import (
    Generated,
    GoldenAnswer,
    MismatchError,
    Recording,
    check_answer,
    check_shape,
    check_vector,
    read_recording,
)

MANIFEST = Manifest(
    directory=Path("nowhere"),
    model="one",
    task="generate",
    target="cpu",
    max_batch_size=1,
    max_input_len=10,
    max_seq_len=20,
    vocab_size=10,
    end_id=9,
    extra_end_ids=(),
    pad_id=None,
    reports_finish_reason=True,
    supports_min_p=True,
    dimension=2,
    supports_log_probs=True,
)
RECORDING = Recording(margin=0.1, log_prob=0.05, cosine=0.99)
GOLDEN = GoldenAnswer((1, 2), (3, 4, 5), (-0.1, -0.2, -0.3), (2.0, 0.01, 2.0))
GOOD = Generated((3, 4, 5), (-0.1, -0.2, -0.3), final=True, reason="length")
CASE = {
    "input_ids": [1, 2],
    "output_ids": [3, 4, 5],
    "log_probs": [-0.1, -0.2, -0.3],
    "margins": [2.0, 0.01, 2.0],
}
DOCUMENT: dict[str, Any] = {
    "format": 1,
    "task": "generate",
    "tolerance": {"margin": 0.1, "log_prob": 0.05, "cosine": 0.99},
    "cases": [CASE],
}


def test_the_recorded_answer_passes() -> None:
    check_shape(MANIFEST, GOOD, 3, -1)
    check_answer(RECORDING, GOLDEN, GOOD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"final": False}, "without its last response"),
        ({"ids": (3, 3, 4, 3, 4, 5)}, "ids are repeated from response to response"),
        ({"ids": (3, 4, 9)}, "the end id 9 is part of the output"),
        ({"reason": None}, "no finish reason came"),
        ({"log_probs": ()}, "0 log-probabilities came for 3 tokens"),
    ],
)
def test_a_broken_contract_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        check_shape(MANIFEST, replace(GOOD, **changes), 3, 9)


def test_what_the_manifest_does_not_promise_is_not_asked_for() -> None:
    modest = replace(MANIFEST, reports_finish_reason=False, supports_log_probs=False)
    check_shape(modest, Generated((3,), (), final=True, reason=None), 3, 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": (7, 4, 5)}, "token 1 of a golden prompt is 7, not 3"),
        ({"ids": (3, 4)}, "2 tokens came for a golden prompt of 3"),
        ({"log_probs": (-0.2, -0.2, -0.3)}, "token 1 of a golden prompt is 0.100 away"),
    ],
)
def test_another_answer_is_a_mismatch(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        check_answer(RECORDING, GOLDEN, replace(GOOD, **changes))


def test_where_two_tokens_were_nearly_as_probable_either_is_right() -> None:
    check_answer(RECORDING, GOLDEN, replace(GOOD, ids=(3, 8, 1)))


def test_a_vector_may_differ_by_rounding_only() -> None:
    check_vector(MANIFEST, RECORDING, (0.6, 0.8), (0.601, 0.799))
    with pytest.raises(MismatchError, match=r"cosine of a vector to the recorded one is 0\.96"):
        check_vector(MANIFEST, RECORDING, (0.6, 0.8), (0.8, 0.6))


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ((1.0,), "has 1 values, the manifest says 2"),
        ((0.0, 0.0), "is zero"),
        ((math.nan, 1.0), "no finite numbers"),
        ((math.inf, 1.0), "no finite numbers"),
    ],
)
def test_what_is_no_vector_is_named_even_without_a_recording(
    vector: tuple[float, ...], message: str
) -> None:
    with pytest.raises(MismatchError, match=message):
        check_vector(MANIFEST, Recording(), vector, None)


def test_a_recording_is_read_as_the_builder_writes_it(tmp_path: Path) -> None:
    (tmp_path / "selftest.json").write_text(json.dumps(DOCUMENT), encoding="utf-8")
    recording = read_recording(tmp_path)
    assert [list(answer.output_ids) for answer in recording.answers] == [[3, 4, 5]]
    assert (recording.margin, recording.log_prob, recording.cosine) == (0.1, 0.05, 0.99)


def test_without_a_recording_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    assert read_recording(tmp_path) == Recording()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "cannot be read"),
        (json.dumps(DOCUMENT | {"format": 2}), "has format 2, this version reads 1"),
        (json.dumps({"format": 1}), "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_a_recording_that_cannot_be_read_is_a_mismatch(
    tmp_path: Path, document: str, message: str
) -> None:
    (tmp_path / "selftest.json").write_text(document, encoding="utf-8")
    with pytest.raises(MismatchError, match=message):
        read_recording(tmp_path)
