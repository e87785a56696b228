"""Texts to embed: no special tokens in them, the tokenizer's own around them."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from orchestrator.rendering.tokenizer import PromptTokenizer
from orchestrator.rendering.word_pieces import word_pieces


class TextEncoder:
    """Encodes callers' texts, many at a time. Immutable, thread-safe."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer
        self._frame = _frame(tokenizer.vocabulary)
        """Ids before and behind every text."""
        words = word_pieces(tokenizer.vocabulary)
        # A piece that is a special token's as well takes a closer look at the whole text.
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
        """The same, for a thread: nearly all of it lets others run."""
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


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]] | None:
    """The ids that the tokenizer puts before and behind a text, or `None` if it does more."""
    found: tuple[list[int], list[int]] | None = None
    for text in ("a", "the user"):
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        framed = tokenizer.encode(text, add_special_tokens=True)
        ids, added = framed.ids, framed.special_tokens_mask
        begin = added.index(0) if 0 in added else 0
        frame = ids[:begin], ids[begin + len(plain) :]
        if not plain or [*frame[0], *plain, *frame[1]] != ids or found not in (None, frame):
            return None
        found = frame
    return found
