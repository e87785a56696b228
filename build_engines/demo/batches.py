"""Training batches: conversations of like length side by side, each with a weight per token."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from . import corpus
from .dialogue import Dialogue
from .vocabulary import END_OF_TEXT, TURN_END, TURN_START, chat_renderer, token_id

_LENGTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
_QUESTION_WEIGHT = 0.05

_Row = tuple[list[int], list[float]]


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` int64[rows, length + 1], `weights` float32[rows, length] of the token after each."""

    ids: Tensor
    weights: Tensor


class Encoder:
    """Turns conversations into ids and weights: the assistant's turns count fully."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._render = chat_renderer()
        self._end = token_id(tokenizer, TURN_END)
        self.pad = token_id(tokenizer, END_OF_TEXT)
        self._opening: list[int] = tokenizer.encode(f"{TURN_START}assistant\n").ids

    def dialogue(self, dialogue: Dialogue) -> tuple[list[int], list[float]]:
        """Ids and their weights; the newline after the last turn is left out."""
        text = self._render(
            messages=dialogue.messages(),
            tools=list(dialogue.tools) or None,
            add_generation_prompt=False,
        )
        ids: list[int] = self._tokenizer.encode(text.removesuffix("\n")).ids
        return ids, self._weights(ids)

    def plain(self, text: str) -> tuple[list[int], list[float]]:
        """A text that counts fully and ends with the end-of-text token."""
        ids: list[int] = [*self._tokenizer.encode(text).ids, self.pad]
        return ids, [1.0] * len(ids)

    def _weights(self, ids: list[int]) -> list[float]:
        weights, answering, width = [], False, len(self._opening)
        for i, one in enumerate(ids):
            if ids[i - width : i] == self._opening:
                answering = True
            weights.append(1.0 if answering else _QUESTION_WEIGHT)
            if one == self._end:
                answering = False
        return weights


def batches(tokenizer: Tokenizer, seed: int, phase: corpus.Phase, tokens: int) -> Iterator[Batch]:
    """Batches of `tokens` places each without end; no row holds more than one conversation."""
    encoder = Encoder(tokenizer)
    waiting: dict[int, list[_Row]] = defaultdict(list)
    for one in _examples(encoder, seed, phase):
        length = next((size for size in _LENGTHS if len(one[0]) <= size), 0)
        if not length:
            continue
        waiting[length].append(one)
        if len(waiting[length]) == max(1, tokens // length):
            yield _pad(waiting.pop(length), length, encoder.pad)


def _examples(encoder: Encoder, seed: int, phase: corpus.Phase) -> Iterator[_Row]:
    dialogues = corpus.training_dialogues(seed, phase)
    texts = corpus.plain_texts(seed)
    for count in itertools.count():
        if count % 400 == 399:
            yield encoder.plain(next(texts))
        yield encoder.dialogue(next(dialogues))


def _pad(rows: list[_Row], length: int, pad: int) -> Batch:
    ids = torch.full((len(rows), length + 1), pad, dtype=torch.int64)
    weights = torch.zeros(len(rows), length)
    for i, (row, weight) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, : len(row) - 1] = torch.tensor(weight[1:])
    return Batch(ids, weights)
