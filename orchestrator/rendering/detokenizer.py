"""Turns token ids into text piece by piece, in whole characters and with all spaces."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from orchestrator.rendering.token_bytes import TokenBytes

_UNKNOWN = "\ufffd"
_MAX_PENDING = 8
_LONG_WINDOW = 16


class Detokenizer:
    """Decodes one growing sequence of ids, in O(n) overall.

    Each step decodes the new ids together with the last ids that were returned, because the text of
    a token depends on its left neighbour (a leading space, bytes of a character). Text that ends in
    U+FFFD may be half a character and waits for more. Tokens that do not depend on their neighbours
    are looked up in `known` instead.

    `tokenizers.DecodeStream` does the same, but it cannot return the rest at the end, and it
    collects ids without limit on bytes that never become a character.
    """

    def __init__(
        self, vocabulary: Tokenizer, skipped: frozenset[int], known: TokenBytes | None = None
    ) -> None:
        self._vocabulary = vocabulary
        self._skipped = skipped
        self._texts = (known or TokenBytes(vocabulary)).texts
        self._given: list[int] = []
        self._given_text = ""
        self._pending: list[int] = []

    def feed(self, token_ids: Sequence[int]) -> str:
        """Returns the characters that `token_ids` complete."""
        skipped = self._skipped
        pending = self._pending
        if not pending and skipped.isdisjoint(token_ids):
            known = self._texts
            texts = [known[one] for one in token_ids]
            if texts and "" not in texts:
                self._given, self._given_text = [token_ids[-1]], texts[-1]
                return "".join(texts)
        pending += [one for one in token_ids if one not in skipped]
        if not pending:
            return ""
        text = self._text_of(pending)
        if text.endswith(_UNKNOWN):
            return self._give_certain(text)
        return self._give(text, len(pending))

    def flush(self) -> str:
        """Returns the rest at the end; half a character becomes U+FFFD."""
        if not self._pending:
            return ""
        return self._give(self._text_of(self._pending), len(self._pending))

    def _text_of(self, token_ids: list[int]) -> str:
        """The text that `token_ids` add to the text already returned."""
        text = self._decode(self._given + token_ids)
        if text.startswith(self._given_text):
            return text[len(self._given_text) :]
        # Byte-fallback decoders turn a whole run of bytes into U+FFFD while it is incomplete.
        return self._decode(token_ids)

    def _give(self, text: str, count: int) -> str:
        """Marks the first `count` pending ids, whose text is `text`, as returned."""
        if not text:
            return ""
        self._given = self._pending[:count]
        self._pending = self._pending[count:]
        self._given_text = self._decode(self._given)
        if len(self._given) > _LONG_WINDOW:
            self._shorten_window()
        return text

    def _shorten_window(self) -> None:
        """Keeps only the last few ids: only these affect the next token."""
        last = self._given[-_MAX_PENDING:]
        text = self._decode(last)
        if text and _UNKNOWN not in text:
            self._given, self._given_text = last, text

    def _give_certain(self, text: str) -> str:
        """Returns what is complete before the last, perhaps incomplete, character of `text`.

        A character has at most four bytes, so at most three ids can wait for the rest of it. If
        more wait, their bytes form no character, and they are returned as U+FFFD.
        """
        pending = self._pending
        for kept in range(1, min(4, len(pending))):
            head = self._text_of(pending[:-kept])
            if head and not head.endswith(_UNKNOWN):
                return self._give(head, len(pending) - kept)
        if len(pending) <= _MAX_PENDING:
            return ""
        for kept in (1, 2, 3):
            head, tail = self._text_of(pending[:-kept]), self._decode(pending[-kept:])
            if tail == _UNKNOWN and head + tail == text:
                return self._give(head, len(pending) - kept)
        return self._give(text, len(pending))

    def _decode(self, token_ids: list[int]) -> str:
        return self._vocabulary.decode(token_ids, skip_special_tokens=False)
