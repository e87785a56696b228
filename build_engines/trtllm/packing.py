"""Packs texts into an encoder engine's tensors, and pools its hidden states to a vector per text.

Source: TensorRT-LLM, examples/models/core/bert: packed engines take texts one behind the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engines.checkpoint.pooling import Pooling
from build_engines.serving.texts import Text

#: The smallest divisor in torch.nn.functional.normalize.
_MIN_NORM = 1e-12


def pack(texts: list[Text], position_offset: int) -> dict[str, npt.NDArray[np.int32]]:
    """Returns the engine's inputs: int32[tokens] each, but `input_lengths` int32[texts].

    Only the shape of `max_input_length` matters: it is the length of the longest text.
    """
    lengths = np.array([len(text.ids) for text in texts], np.int32)
    positions = [np.arange(length, dtype=np.int32) + position_offset for length in lengths]
    return {
        "input_ids": np.concatenate([text.ids for text in texts]).astype(np.int32),
        "token_type_ids": np.concatenate([text.types for text in texts]).astype(np.int32),
        "position_ids": np.concatenate(positions).astype(np.int32),
        "input_lengths": lengths,
        "max_input_length": np.zeros(int(lengths.max()), np.int32),
    }


def pool(
    hidden: npt.NDArray[Any], lengths: npt.NDArray[np.int32], pooling: Pooling, *, normalize: bool
) -> npt.NDArray[np.float32]:
    """Returns one vector for each text, float32[texts, hidden], from states [tokens, hidden]."""
    ends = np.cumsum(lengths)
    begins = ends - lengths
    states = hidden.astype(np.float32)
    if pooling == "cls":
        vectors = states[begins]
    elif pooling == "last":
        vectors = states[ends - 1]
    else:
        vectors = np.add.reduceat(states, begins, axis=0) / lengths[:, None].astype(np.float32)
    if normalize:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(norms, _MIN_NORM)
    return np.ascontiguousarray(vectors, np.float32)


def groups(texts: list[Text], max_batch_size: int, max_num_tokens: int) -> list[list[Text]]:
    """Splits `texts`, in order, into parts that fit the engine."""
    parts: list[list[Text]] = []
    tokens = 0
    for text in texts:
        tokens += len(text.ids)
        if not parts or len(parts[-1]) == max_batch_size or tokens > max_num_tokens:
            parts.append([])
            tokens = len(text.ids)
        parts[-1].append(text)
    return parts


def embedding_settings(manifest: Mapping[str, Any]) -> tuple[Pooling, bool, int]:
    """Returns pooling, normalisation and the first position, as the builder recorded them."""
    embedding = manifest["embedding"]
    return embedding["pooling"], bool(embedding["normalize"]), int(embedding["position_offset"])
