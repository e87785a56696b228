"""Parses the texts of an embedding request for our embedding models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engines.serving.request import Limits, RequestError


@dataclass(frozen=True, slots=True)
class Text:
    """One text's tokens, without padding."""

    ids: npt.NDArray[np.int32]
    types: npt.NDArray[np.int32]


def parse_texts(
    tensors: Mapping[str, npt.NDArray[Any]], limits: Limits, type_vocab_size: int
) -> list[Text]:
    """Returns the texts of one request: one for each row, with the tokens that its mask keeps.

    Raises: RequestError.
    """
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    types = tensors.get("token_type_ids")
    if types is None:
        types = np.zeros_like(ids)
    for name, tensor in (("attention_mask", mask), ("token_type_ids", types)):
        if tensor.shape != ids.shape:
            raise RequestError(
                f"`{name}` has shape {list(tensor.shape)}, `input_ids` has {list(ids.shape)}"
            )
    if ((types < 0) | (types >= type_vocab_size)).any():
        raise RequestError(f"`token_type_ids` must be from 0 to {type_vocab_size - 1}")
    return [_text(*row, limits) for row in zip(ids, mask, types, strict=True)]


def _text(
    ids: npt.NDArray[np.int32],
    mask: npt.NDArray[np.int32],
    types: npt.NDArray[np.int32],
    limits: Limits,
) -> Text:
    kept = mask == 1
    text = Text(ids[kept], types[kept])
    if len(text.ids) == 0:
        raise RequestError("`input_ids` is empty, must hold at least 1 token")
    if len(text.ids) > limits.max_input_len:
        raise RequestError(
            f"`input_ids`: Prompt length ({len(text.ids)}) exceeds maximum input length "
            f"({limits.max_input_len})"
        )
    wrong = text.ids[(text.ids < 0) | (text.ids >= limits.vocab_size)]
    if len(wrong):
        raise RequestError(
            f"`input_ids` holds token {wrong[0]}, must be from 0 to {limits.vocab_size - 1}"
        )
    return text
