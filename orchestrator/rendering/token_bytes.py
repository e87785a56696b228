"""The raw bytes of single tokens, and the text of tokens that do not depend on their neighbours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"
_UNKNOWN = "\ufffd"


class TokenBytes:
    """The bytes of each id of a vocabulary, looked up once per id.

    Vocabularies write bytes in one of two ways: every byte as a letter (byte-level BPE), or text
    with `▁` for spaces and `<0x0A>` for bytes without a piece of their own (SentencePiece). The
    tokenizer's decoder shows which.
    """

    def __init__(self, vocabulary: Tokenizer) -> None:
        self._vocabulary = vocabulary
        kinds = _decoder_kinds(vocabulary)
        self._letters = byte_letters() if "ByteLevel" in kinds else {}
        self._has_bytes = "ByteFallback" in kinds
        self._has_spaces = bool(kinds & {"Metaspace", "Replace"})
        self._added = {
            token_id: token.content.encode()
            for token_id, token in vocabulary.get_added_tokens_decoder().items()
        }
        self._known: dict[int, bytes] = {}
        self.is_byte_level = kinds == {"ByteLevel"}
        """Whether each token gives the same bytes at every position."""
        self.texts: Mapping[int, str] = _Texts(self._whole_text)
        """The text of an id if it does not depend on the text before it; otherwise empty.

        Byte-level decoders join the bytes of their tokens, so tokens of whole characters, which
        most are, need not be decoded with their neighbours.
        """

    def of(self, token_id: int) -> bytes:
        """The bytes of `token_id`; empty for an id that the vocabulary does not have."""
        raw = self._known.get(token_id)
        if raw is None:
            raw = self._known[token_id] = self._look_up(token_id)
        return raw

    def _whole_text(self, token_id: int) -> str:
        if not self.is_byte_level or token_id in self._added:
            return ""
        piece = self._vocabulary.id_to_token(token_id) or ""
        if not all(letter in self._letters for letter in piece):
            return ""
        text = self.of(token_id).decode("utf-8", "replace")
        return "" if _UNKNOWN in text else text

    def _look_up(self, token_id: int) -> bytes:
        if (added := self._added.get(token_id)) is not None:
            return added
        piece = self._vocabulary.id_to_token(token_id)
        if piece is None:
            return b""
        if self._letters and all(letter in self._letters for letter in piece):
            return bytes(self._letters[letter] for letter in piece)
        if self._has_bytes and (byte := _BYTE.fullmatch(piece)) is not None:
            return bytes.fromhex(byte[1])
        return (piece.replace(_SPACE, " ") if self._has_spaces else piece).encode()


class _Texts(dict[int, str]):
    """Caches texts by id; a cached text costs no Python call."""

    def __init__(self, look_up: Callable[[int], str]) -> None:
        super().__init__()
        self._look_up = look_up

    def __missing__(self, token_id: int) -> str:
        text = self[token_id] = self._look_up(token_id)
        return text


def _decoder_kinds(vocabulary: Tokenizer) -> set[str]:
    """The types of the steps of the tokenizer's decoder, which turn pieces into text."""
    decoder = vocabulary.decoder
    if decoder is None:
        return set()
    document: dict[str, Any] = json.loads(decoder.__getstate__())
    return {str(step["type"]) for step in document.get("decoders", [document])}


def byte_letters() -> dict[str, int]:
    """Maps letters to bytes: a printable byte is its own letter, any other gets the next free one.

    Source: GPT-2's `bytes_to_unicode`.
    """
    printing = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printing]
    letters = {chr(byte): byte for byte in printing}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}
