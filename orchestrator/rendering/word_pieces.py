"""BERT's word pieces of plain ASCII text, looked up directly in the vocabulary.

The library normalises such text letter by letter in five passes. This takes most of its time and
changes only capitals; the code here is 4 to 8 times faster. The library encodes all other text.
Source: Hugging Face tokenizers 0.23, `BertNormalizer`, `BertPreTokenizer` and `WordPiece`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

_LONGEST_WORD = 24
"""Max letters of a word: the time to try all pieces grows with their square."""
_WORD = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]")
_CONTROL = re.compile(r"[^\t\n\r -~]")
_PROBED_WORDS = 2_000


class WordPieces:
    """The pieces of one vocabulary. Immutable, thread-safe."""

    def __init__(self, vocabulary: Mapping[str, int], *, prefix: str, lowercase: bool) -> None:
        """`prefix` marks pieces that do not begin a word; with `lowercase` text is lowercased."""
        self._first: dict[str, int] = {}
        self._further: dict[str, int] = {}
        for piece, token_id in vocabulary.items():
            known, text = self._first, piece
            if piece.startswith(prefix) and len(piece) > len(prefix):
                known, text = self._further, piece.removeprefix(prefix)
            if len(text) <= _LONGEST_WORD and _WORD.fullmatch(text):
                known[text] = token_id
        self._first_reach, self._further_reach = _reach(self._first), _reach(self._further)
        self._lowercase = lowercase

    @property
    def reachable(self) -> frozenset[int]:
        """Every id that `ids` may return."""
        return frozenset((*self._first.values(), *self._further.values()))

    def ids(self, text: str) -> list[int] | None:
        """The ids of `text`, or `None` if the library must encode it."""
        if not text.isascii() or not (text.isprintable() or _CONTROL.search(text) is None):
            return None
        words = _WORD.findall(text.lower() if self._lowercase else text)
        find = self._first.get
        ids = [find(word) for word in words]
        return self._cut(words, ids) if None in ids else cast("list[int]", ids)

    def _cut(self, words: Sequence[str], found: Sequence[int | None]) -> list[int] | None:
        ids: list[int] = []
        for word, whole in zip(words, found, strict=True):
            if whole is not None:
                ids.append(whole)
            elif (pieces := self._pieces(word)) is not None:
                ids += pieces
            else:
                return None
        return ids

    def _pieces(self, word: str) -> list[int] | None:
        """Repeatedly takes the longest piece that fits; `None` for an unknown word."""
        if len(word) > _LONGEST_WORD:
            return None
        ids: list[int] = []
        known, reach, start = self._first, self._first_reach, 0
        while start < len(word):
            longest = start + reach.get(word[start], 0)
            for end in range(min(len(word), longest), start, -1):
                if (piece := known.get(word[start:end])) is not None:
                    break
            else:
                return None
            ids.append(piece)
            known, reach, start = self._further, self._further_reach, end
        return ids


def _reach(pieces: Iterable[str]) -> dict[str, int]:
    """The length of the longest piece by its first letter, which avoids most tries."""
    reach: dict[str, int] = {}
    for piece in pieces:
        reach[piece[0]] = max(reach.get(piece[0], 0), len(piece))
    return reach


def word_pieces(tokenizer: Tokenizer) -> WordPieces | None:
    """The word pieces of `tokenizer`, if it is like BERT's and gives the same ids for test texts.

    Added tokens must be private characters, or special tokens that it reads as plain text.
    """
    model, normalizer = tokenizer.model, tokenizer.normalizer
    if not (
        isinstance(model, models.WordPiece)
        and isinstance(normalizer, normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and normalizer.clean_text
        and tokenizer.encode_special_tokens
        and model.max_input_chars_per_word >= _LONGEST_WORD
        and all(
            one.special or not one.content.isascii()
            for one in tokenizer.get_added_tokens_decoder().values()
        )
    ):
        return None
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    pieces = WordPieces(
        vocabulary, prefix=model.continuing_subword_prefix, lowercase=normalizer.lowercase
    )
    trial = _trial(vocabulary)
    for text, encoding in zip(
        trial, tokenizer.encode_batch_fast(trial, add_special_tokens=False), strict=True
    ):
        if pieces.ids(text) not in (None, encoding.ids):
            return None
    return pieces


def _trial(vocabulary: Mapping[str, int]) -> list[str]:
    """Test texts: each character next to letters and blanks; words with and without capitals."""
    characters = "".join(f"a{chr(one)}B {chr(one)} \t{chr(one)}\n" for one in range(ord(" "), 127))
    words = sorted(vocabulary)[:: max(1, len(vocabulary) // _PROBED_WORDS)]
    return [characters, *words, *map(str.title, words)]
