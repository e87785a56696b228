"""The minimum number of tokens of a text, from its length, before it is tokenised."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

from orchestrator.rendering.token_bytes import TokenBytes, byte_letters

BYTES_A_TOKEN = 64
"""The bound where no better one is known (one token may be an unknown word, and a template may drop
text): a text with on average more bytes than this per allowed token is refused as too long."""

_SPACES = bytes((*range(0x09, 0x0E), *range(0x1C, 0x21)))
_LETTERS = bytes((*range(0x41, 0x5B), *range(0x61, 0x7B)))
_DIGITS = bytes(range(0x30, 0x3A))
_HIGH = bytes(range(0x80, 0x100))
_OTHERS = bytes(set(range(0x80)) - {*_SPACES, *_LETTERS, *_DIGITS})
_KINDS = (_LETTERS, _DIGITS, _OTHERS, _HIGH, _SPACES)
_NOT_OF = tuple(bytes(set(range(256)) - set(kind)) for kind in _KINDS)
_SPACES_AT = len(_KINDS) - 1
_KEEPING = frozenset({"ByteLevel", "Split", "Digits", "Punctuation"})
"""Pre-tokenizer steps that cut a text and by default drop nothing of it."""
_MAX_COMPOSED = 3
"""Max bytes of a decomposed character for each byte of the character that NFC composes."""


class Lengths:
    """Computes the fewest tokens of a text by length, for one vocabulary. Immutable, thread-safe.

    Where tokens stand for bytes, as in byte-level BPE, each byte of a text must be in some token.
    So a text has at least as many tokens as its letters divided by the max letters of one token;
    the same holds for digits, other characters, bytes beyond ASCII, and white space.
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
            # Such tokens include all white space beside them.
            most[_SPACES_AT] = 0
        self._most = tuple(most)
        self._divisor = _MAX_COMPOSED if kind else 1

    def fewest(self, text: str, *, kept: bool = True) -> int:
        """The fewest tokens that `text` can have. `kept` is false if white space may be dropped."""
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
    """Whether each byte of a text is part of some token."""
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
    """The type of the tokenizer's normalizer; empty if it has none."""
    return "" if vocabulary.normalizer is None else type(vocabulary.normalizer).__name__
