from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from build_engines.golden.selftest import (
    Answer,
    SelfTestError,
    Vector,
    check_same,
    embedding_document,
    generation_document,
    golden_inputs,
    read_document,
    write_document,
)
from tests.reference.checkpoints import write_decoder

GOLDEN = Answer([1, 2], [5, 6, 7], [-0.1, -0.2, -0.3], [2.0, 0.005, 2.0])


def answers(**changes: Any) -> dict[str, Any]:
    values = {name: getattr(GOLDEN, name) for name in Answer.__slots__}
    return generation_document([Answer(**{**values, **changes})], "float32")


def test_the_same_answer_passes() -> None:
    check_same(answers(), answers(), "again")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_ids": [4, 6, 7]}, "golden prompt 1 again: token 1 is 4, not 5"),
        ({"log_probs": [-0.1, -0.2, -0.9]}, "token 3 has log-probability -0.900, not -0.300"),
        ({"output_ids": [5, 6]}, "2 tokens, not 3"),
        ({"input_ids": [1, 3]}, "golden prompt 1 again is another one"),
    ],
)
def test_another_answer_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SelfTestError, match=message):
        check_same(answers(), answers(**changes), "again")


def test_either_of_two_tokens_that_were_nearly_as_probable_is_right() -> None:
    check_same(answers(), answers(output_ids=[5, 9, 1]), "again")


def test_another_tokenizer_is_nothing_to_compare_where_it_may_differ() -> None:
    check_same(answers(), answers(input_ids=[3], output_ids=[9]), "again", inputs=False)


def test_narrow_arithmetic_is_given_room() -> None:
    narrow = generation_document([GOLDEN], "int8")
    check_same(narrow, answers(log_probs=[-0.5, -0.6, -0.7]), "again")


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([0.6, 0.8], ""),
        ([0.8, 0.6], "cosine to the recorded one is 0.96000, must be >= 0.9999"),
        ([0.6, 0.8, 0.0], "has 3 values, not 2"),
        ([0.0, 0.0], "is zero or holds values that are no finite numbers"),
        ([float("nan"), 0.0], "no finite numbers"),
    ],
)
def test_vectors_are_compared_by_direction(vector: list[float], message: str) -> None:
    golden = embedding_document([Vector([1], [0.6, 0.8])], "float32")
    given = embedding_document([Vector([1], vector)], "float32")
    if not message:
        check_same(golden, given, "again")
        return
    with pytest.raises(SelfTestError, match=message):
        check_same(golden, given, "again")


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_document(tmp_path, answers())
    assert read_document(tmp_path) == answers()
    (tmp_path / "selftest.json").write_text("{")
    assert read_document(tmp_path) is None


def test_golden_prompts_fit_the_model(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "llama", "llama")
    prompts = golden_inputs(folder, max_input_len=8)
    assert len(prompts) >= 3
    assert all(0 < len(prompt) <= 8 for prompt in prompts)
