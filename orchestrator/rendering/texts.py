"""Encodes texts to embed: without special tokens in them, with the tokenizer's own around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.rendering.tokenizer import MAX_PIECE_CHARACTERS, PromptTokenizer
from orchestrator.rendering.word_pieces import word_pieces


class TextEncoder:
    """Encodes callers' texts, many at a time. Immutable, thread-safe."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer
        self._frame = tokenizer.frame
        words = word_pieces(tokenizer.vocabulary)
        # If a word piece may also be a special token, the whole text needs the full check.
        if words is not None and not tokenizer.suspects.isdisjoint(words.reachable):
            words = None
        self._words = words

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        if self._words is None or self._frame is None:
            return self.encode_long(texts)
        before, behind = self._frame
        rows: list[list[int]] = []
        left: list[int] = []
        for index, text in enumerate(texts):
            ids = self._words.ids(text)
            if ids is None:
                left.append(index)
                rows.append([])
            else:
                rows.append([*before, *ids, *behind])
        if left:
            others = self.encode_long([texts[index] for index in left])
            for index, row in zip(left, others, strict=True):
                rows[index] = row
        return rows

    def encode_long(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode`, for a thread: it mostly runs without the GIL."""
        return [row for rows in self.encode_groups(texts) for row in rows]

    def encode_groups(self, texts: Sequence[str]) -> Iterator[list[list[int]]]:
        """`encode` in groups of texts, which limits the memory for encoding."""
        return map(self._encode_group, _groups(texts))

    def _encode_group(self, texts: Sequence[str]) -> list[list[int]]:
        if self._frame is None:
            return [self._tokenizer.encode_text(text) for text in texts]
        before, behind = self._frame
        clean = [self._tokenizer.specials.without_reserved(text) for text in texts]
        encode, suspects = self._tokenizer.vocabulary.encode_batch_fast, self._tokenizer.suspects
        rows: list[list[int]] = []
        for text, encoding in zip(texts, encode(clean, add_special_tokens=False), strict=True):
            ids: list[int] = encoding.ids
            if suspects.isdisjoint(ids):
                rows.append([*before, *ids, *behind])
            else:
                rows.append(self._tokenizer.encode_text(text))
        return rows


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields `texts` in groups that need little memory while they are encoded."""
    start = size = 0
    for index, text in enumerate(texts):
        size += len(text)
        if size > MAX_PIECE_CHARACTERS and index > start:
            yield texts[start:index]
            start, size = index, len(text)
    yield texts[start:]
