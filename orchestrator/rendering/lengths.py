"""How few tokens a text can have, known from its length before it is tokenised."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

from orchestrator.rendering.token_bytes import TokenBytes, byte_letters

BYTES_A_TOKEN = 64
"""Where nothing else sets a bound (one token for an unknown word, what a template drops): what has
more bytes than this for each token that it may have, on average, is refused as too long."""

_SPACES = bytes((*range(0x09, 0x0E), *range(0x1C, 0x21)))
_LETTERS = bytes((*range(0x41, 0x5B), *range(0x61, 0x7B)))
_DIGITS = bytes(range(0x30, 0x3A))
_HIGH = bytes(range(0x80, 0x100))
_OTHERS = bytes(set(range(0x80)) - {*_SPACES, *_LETTERS, *_DIGITS})
_KINDS = (_LETTERS, _DIGITS, _OTHERS, _HIGH, _SPACES)
_NOT_OF = tuple(bytes(set(range(256)) - set(kind)) for kind in _KINDS)
_SPACES_AT = len(_KINDS) - 1
_KEEPING = frozenset({"ByteLevel", "Split", "Digits", "Punctuation"})
"""Steps that cut a text and drop nothing of it by default."""
_MAX_COMPOSED = 3
"""Bytes of a character and its accents, for one byte of the character that NFC makes of them."""


class Lengths:
    """The fewest tokens by length, of one vocabulary. Immutable, thread-safe.

    Where tokens stand for bytes, as in byte-level BPE, each kind of byte of a text has to be in
    some token, so a text has no fewer tokens than letters divided by the most letters in one token;
    the same for digits, other characters, bytes beyond ASCII, and white space.
    """

    def __init__(self, vocabulary: Tokenizer, known: TokenBytes, size: int) -> None:
        """`size` is one more than the highest id."""
        self._most: tuple[int, ...] = ()
        self._divisor = 1
        added = vocabulary.get_added_tokens_decoder()
        kind = _normalizer(vocabulary)
        if kind not in ("", "NFC") or not _keeps_every_byte(vocabulary, known):
            return
        texts = [known.of(one) for one in range(size)]
        most = [max(map(len, _only(texts, unwanted)), default=0) for unwanted in _NOT_OF]
        if any(token.lstrip or token.rstrip for token in added.values()):
            # They take in all white space beside them.
            most[_SPACES_AT] = 0
        self._most = tuple(most)
        self._divisor = _MAX_COMPOSED if kind else 1

    def fewest(self, text: str, *, kept: bool = True) -> int:
        """The fewest tokens that `text` can have; with `kept` false its white space may go."""
        raw = text.encode("utf-8", "surrogatepass")
        if not self._most:
            return len(raw) // BYTES_A_TOKEN
        divisor = 1 if text.isascii() else self._divisor
        fewest = 0
        for at, most in enumerate(self._most):
            if most and (kept or at != _SPACES_AT):
                count = len(raw.translate(None, _NOT_OF[at]))
                fewest = max(fewest, -(-count // (most * divisor)))
        return fewest


def _keeps_every_byte(vocabulary: Tokenizer, known: TokenBytes) -> bool:
    """Whether each byte of a text ends up in some token."""
    if not known.is_byte_level or not isinstance(vocabulary.model, BPE):
        return False
    state = json.loads(vocabulary.pre_tokenizer.__getstate__()) if vocabulary.pre_tokenizer else {}
    steps: list[dict[str, Any]] = state.get("pretokenizers", [state])
    keeps = all(
        step.get("type") in _KEEPING and step.get("behavior") != "Removed" for step in steps
    )
    return keeps and all(vocabulary.token_to_id(one) is not None for one in byte_letters())


def _only(texts: Iterable[bytes], unwanted: bytes) -> Iterable[bytes]:
    return (text.translate(None, unwanted) for text in texts)


def _normalizer(vocabulary: Tokenizer) -> str:
    """The type of what changes a text before it is cut, empty where nothing does."""
    return "" if vocabulary.normalizer is None else type(vocabulary.normalizer).__name__
