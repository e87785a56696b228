"""Packing and pooling against the plain way: text by text, padded, with a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from build_engines.checkpoint.pooling import Pooling
from build_engines.serving.texts import Text
from build_engines.trtllm.packing import groups, pack, pool

LENGTHS = (3, 1, 17, 8)


def text(length: int, seed: int = 0) -> Text:
    ids = np.random.default_rng(seed).integers(0, 100, length).astype(np.int32)
    return Text(ids, (ids % 2).astype(np.int32))


@pytest.mark.parametrize("offset", [0, 2])
def test_texts_lie_one_behind_the_other_and_count_their_own_positions(offset: int) -> None:
    texts = [text(length, seed) for seed, length in enumerate(LENGTHS)]
    packed = pack(texts, offset)
    begin = 0
    for one in texts:
        end = begin + len(one.ids)
        assert packed["input_ids"][begin:end].tolist() == one.ids.tolist()
        assert packed["token_type_ids"][begin:end].tolist() == one.types.tolist()
        positions = packed["position_ids"][begin:end].tolist()
        assert positions == list(range(offset, offset + len(one.ids)))
        begin = end
    assert begin == len(packed["input_ids"]) == sum(LENGTHS)
    assert packed["input_lengths"].tolist() == list(LENGTHS)
    assert packed["max_input_length"].shape == (17,)
    assert {tensor.dtype for tensor in packed.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_pooling_is_that_of_each_text_alone(
    pooling: Pooling, normalize: bool, dtype: npt.DTypeLike
) -> None:
    random = np.random.default_rng(1)
    states = [random.standard_normal((length, 24)).astype(dtype) for length in LENGTHS]
    lengths = np.array(LENGTHS, np.int32)
    vectors = pool(np.concatenate(states), lengths, pooling, normalize=normalize)
    assert vectors.dtype == np.float32
    for state, vector in zip(states, vectors, strict=True):
        assert vector == pytest.approx(_one(state, pooling, normalize), abs=1e-5)


def _one(state: npt.NDArray[Any], pooling: str, normalize: bool) -> npt.NDArray[np.float64]:
    wide = state.astype(np.float64)
    vector: npt.NDArray[np.float64] = {"cls": wide[0], "last": wide[-1], "mean": wide.mean(axis=0)}[
        pooling
    ]
    if normalize:
        vector /= np.sqrt((vector**2).sum())
    return vector


def test_a_zero_vector_stays_finite() -> None:
    vectors = pool(np.zeros((2, 4)), np.array([2], np.int32), "mean", normalize=True)
    assert vectors.tolist() == [[0.0] * 4]


def test_texts_are_cut_into_what_the_engine_takes_at_once() -> None:
    texts = [text(length) for length in (5, 5, 5, 9, 1, 1, 1)]
    parts = groups(texts, max_batch_size=3, max_num_tokens=10)
    assert [[len(one.ids) for one in part] for part in parts] == [[5, 5], [5], [9, 1], [1, 1]]
    parts = groups(texts[4:], max_batch_size=2, max_num_tokens=10)
    assert [len(part) for part in parts] == [2, 1]
