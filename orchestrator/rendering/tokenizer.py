"""A model's tokenizer: turns text into ids, with special tokens only where they are intended."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Encoding, Tokenizer

from orchestrator.rendering.files import RenderingError, TokenizerFiles
from orchestrator.rendering.segments import Segment, Segments
from orchestrator.rendering.special_tokens import SpecialToken, SpecialTokens
from orchestrator.rendering.token_bytes import TokenBytes

MAX_SEGMENT_BYTES = 4 * 2**20
"""Max bytes of cached texts and ids, per model and process: about a million characters."""


MAX_PIECE_CHARACTERS = 64 * 1024
"""About this much is tokenised at once, because it takes some 130 bytes per character."""
_BETWEEN_WORDS = re.compile(r"[a-z](?= [a-z])")
_WORDS = "the user asked about a thing and then the answer was written down"

_MAX_AT_ONCE = 2_000
"""Max characters that are encoded without releasing the interpreter's lock. To get the lock again
takes longer than to encode a short text."""


class PromptTokenizer:
    """Encodes prompts, and shares its vocabulary with detokenisers. Immutable, thread-safe."""

    def __init__(self, files: TokenizerFiles, markers: Collection[str] = ()) -> None:
        """`markers` are texts that have a meaning if they are tokens, special or not."""
        path = files.directory / "tokenizer.json"
        texts = files.special_texts.union(markers)
        self.vocabulary = _load(path, files, texts)
        self.size = max(self.vocabulary.get_vocab(with_added_tokens=True).values()) + 1
        self.specials = SpecialTokens(_special_tokens(self.vocabulary, texts))
        try:
            self._meanings = self.specials.install(self.vocabulary)
        except ValueError as error:
            raise RenderingError(f"{path}: {error}") from error
        self.private_ids = frozenset(self._meanings)
        """Ids that the vocabulary did not have; an engine with wider logits may emit them."""
        # The unknown token stands for text that the vocabulary lacks, so forging it has no effect.
        unknown = self.vocabulary.token_to_id(files.named_tokens.get("unk_token", "<unk>"))
        self._forgeable = self.specials.ids - {unknown}
        self.suspects = self._forgeable | self.private_ids
        """Ids that a caller's plain text must not produce."""
        self._segments = Segments(MAX_SEGMENT_BYTES)
        self.frame = _frame(self.vocabulary)
        """Ids before and after every text; `None` if the tokenizer does more than that."""
        self._cuts_at_words = _cuts_at_words(self.vocabulary)

    def encode_shielded(self, text: str, owner: str, most: int | None = None) -> array[int]:
        """The ids, int32[n], of a text with special tokens and with shielded texts of callers.

        No special tokens are added. Pieces that `owner` has sent before are only looked up. If the
        text has more than `most` ids, it returns more than `most`, but maybe not all of them.
        """
        cut = [(owner, twin, behind) for twin, behind in self.specials.pieces(text)]
        if len(text) > MAX_PIECE_CHARACTERS:
            return self._encode_long(cut, most)
        return self._encode_pieces(cut)

    def _encode_long(self, pieces: Sequence[Segment], most: int | None) -> array[int]:
        """Encodes short pieces together and long pieces in parts, to limit the memory."""
        whole = array("i")
        together: list[Segment] = []
        size = 0
        for owner, twin, behind in pieces:
            for number, part in enumerate(self._parts(behind)):
                if together and size + len(part) > MAX_PIECE_CHARACTERS:
                    whole += self._encode_pieces(together)
                    together, size = [], 0
                    if most is not None and len(whole) > most:
                        return whole
                together.append((owner, "" if number else twin, part))
                size += len(part)
        return whole + self._encode_pieces(together)

    def _parts(self, text: str) -> Iterator[str]:
        """Cuts `text` between words, if the tokenizer would cut it there as well."""
        if not self._cuts_at_words or len(text) <= MAX_PIECE_CHARACTERS:
            yield text
            return
        start = 0
        while len(text) - start > MAX_PIECE_CHARACTERS:
            found = _BETWEEN_WORDS.search(text, start + MAX_PIECE_CHARACTERS // 2)
            if found is None:
                break
            yield text[start : found.start() + 1]
            start = found.start() + 1
        yield text[start:]

    def _encode_pieces(self, pieces: Sequence[Segment]) -> array[int]:
        known = self._segments.known(pieces)
        if len(known) < len(pieces):
            new = [one for one in dict.fromkeys(pieces) if one not in known]
            texts = [twin + behind for _, twin, behind in new]
            encodings = self._encodings(texts)
            for piece, marked, encoding in zip(new, texts, encodings, strict=True):
                known[piece] = ids = self._piece_ids(marked, encoding)
                self._segments.keep(piece, ids)
        whole = array("i")
        for piece in pieces:
            whole += known[piece]
        return whole

    def encode_text(self, text: str) -> list[int]:
        """The ids of a caller's text: no special tokens in it, the tokenizer's own around it."""
        return self._ids(self.specials.without_reserved(text), add_special_tokens=True)

    def encode_prompt(
        self, text: str, *, add_special_tokens: bool = True, most: int | None = None
    ) -> list[int]:
        """The ids of a whole prompt, in which the caller may write special tokens as text.

        If it has more than `most` ids, it returns more than `most`, but maybe not all of them.
        """
        marked = self.specials.mark(self.specials.without_reserved(text))
        if len(marked) <= MAX_PIECE_CHARACTERS or self.frame is None:
            return self._ids(marked, add_special_tokens=add_special_tokens)
        before, behind = self.frame if add_special_tokens else ([], [])
        ids = [*before]
        for part in self._parts(marked):
            ids += self._ids(part, add_special_tokens=False)
            if most is not None and len(ids) > most:
                return ids
        return [*ids, *behind]

    def _encodings(self, texts: Sequence[str]) -> Sequence[Encoding]:
        if sum(map(len, texts)) < _MAX_AT_ONCE:
            return [self.vocabulary.encode(one, add_special_tokens=False) for one in texts]
        return self.vocabulary.encode_batch_fast(texts, add_special_tokens=False)

    def _piece_ids(self, marked: str, encoding: Encoding) -> array[int]:
        ids: list[int] = encoding.ids
        if not self._forgeable.isdisjoint(ids) and self._unforged(encoding)[1]:
            ids = self._ids(marked, add_special_tokens=False)
        elif self.specials.cuts_everywhere:
            # A twin can only be at the beginning.
            if ids and ids[0] in self._meanings:
                ids[:1] = self._with_meanings(ids[:1])
        else:
            ids = self._with_meanings(ids)
        return array("i", ids)

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        # The batch call releases the GIL, even for one text; `encode` holds it.
        encode = self.vocabulary.encode_batch_fast
        ids, forged = self._unforged(encode([text], add_special_tokens=add_special_tokens)[0])
        if forged:
            # Some models (Unigram) also have special tokens among the pieces of plain text.
            broken = self.specials.broken(text)
            ids, _ = self._unforged(encode([broken], add_special_tokens=add_special_tokens)[0])
        return self._with_meanings(ids)

    def _unforged(self, encoding: Encoding) -> tuple[list[int], bool]:
        """The ids without special tokens that plain text gave, and whether there were any."""
        ids: list[int] = encoding.ids
        if self._forgeable.isdisjoint(ids):
            return ids, False
        added = encoding.special_tokens_mask
        kept = [
            one
            for one, is_added in zip(ids, added, strict=True)
            if is_added or one not in self._forgeable
        ]
        return kept, len(kept) < len(ids)

    def _with_meanings(self, ids: list[int]) -> list[int]:
        """Replaces the twins in `ids` by their special tokens."""
        meanings = self._meanings
        if meanings.keys().isdisjoint(ids):
            return ids
        meant = [meanings.get(one, one) for one in ids]
        return [one for one in meant if one is not None]


def _load(path: Path, files: TokenizerFiles, special_texts: frozenset[str]) -> Tokenizer:
    # Otherwise even a short text runs in another thread, and to wake it costs more than the text.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer = Tokenizer.from_str(files.tokenizer)
    except Exception as error:  # the library raises plain `Exception`
        raise RenderingError(f"{path}: {error}") from error
    # A prompt that is too long for the context is an error; no text is truncated silently.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = {one.content for one in tokenizer.get_added_tokens_decoder().values() if one.special}
    named = sorted(special_texts - special)
    tokenizer.add_special_tokens(
        [
            AddedToken(text, special=True, normalized=False)
            for text in named
            if tokenizer.token_to_id(text) is not None
        ]
    )
    return tokenizer


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]] | None:
    """The ids that the tokenizer puts before and after a text, or `None` if it does more."""
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


def _cuts_at_words(tokenizer: Tokenizer) -> bool:
    """Whether a text may be cut before the space between two words, to tokenise each part alone.

    Byte-level tokenizers cut there before anything else.
    """
    if tokenizer.normalizer is not None and type(tokenizer.normalizer).__name__ != "NFC":
        return False
    if not TokenBytes(tokenizer).is_byte_level or tokenizer.pre_tokenizer is None:
        return False
    cut = tokenizer.pre_tokenizer.pre_tokenize_str(_WORDS)
    begins = {begin for _, (begin, _) in cut}
    return begins >= {match.end() for match in _BETWEEN_WORDS.finditer(_WORDS)}


def _special_tokens(tokenizer: Tokenizer, named: frozenset[str]) -> Sequence[SpecialToken]:
    """The tokens that are special in the vocabulary, and those that other files name."""
    return [
        SpecialToken(token_id, token.content, token.lstrip, token.rstrip, token.single_word)
        for token_id, token in tokenizer.get_added_tokens_decoder().items()
        if token.content and (token.special or token.content in named)
    ]
