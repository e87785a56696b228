"""Separates special tokens from text that only looks like them.

A chat template writes its special tokens as text, and a user may write the same text. After the
template has run, the two look alike. So users' text is *shielded* before: in every special token's
text, one character is replaced by a stand-in from a private-use plane. What still matches in the
rendered text was written by the template. It is *marked*: replaced by one private character, its
twin, which is an added token of the tokenizer. Then the stand-ins are replaced by the original
characters, and one call encodes everything; the tokenizer is set to read the text of special tokens
as plain text. Nothing is split, so harmless text gets exactly the ids of the plain tokenizer.

Filters that templates apply to text (`trim`, `tojson`, `upper`, a slice) keep the shield intact. A
template that deletes or replaces characters inside a text could still produce a special token.
Templates come with the model, which is responsible for that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO

from tokenizers import AddedToken, Tokenizer

_TWINS_FROM = 0x100000
_STAND_INS_FROM = 0x10F000
_BREAK = "\U0010fffd"
_WINDOW = 64 * 1024
"""Characters that are searched at once. No other thread runs during a search."""
_MAX_TWINS = _STAND_INS_FROM - _TWINS_FROM


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """One special token of a vocabulary, and how its text is matched."""

    id: int
    text: str
    lstrip: bool
    rstrip: bool
    single_word: bool

    @property
    def pattern(self) -> str:
        """A regular expression for its text."""
        pattern = re.escape(self.text)
        return rf"(?<!\w){pattern}(?!\w)" if self.single_word else pattern


class SpecialTokens:
    """The special tokens of one tokenizer. Immutable, thread-safe."""

    def __init__(self, tokens: Sequence[SpecialToken]) -> None:
        if len(tokens) > _MAX_TWINS:
            raise ValueError(f"{len(tokens)} special tokens, at most {_MAX_TWINS}")
        # If several texts match, the longest wins, as in the tokenizer's own search.
        self._tokens = sorted(tokens, key=lambda token: -len(token.text))
        self.ids = frozenset(token.id for token in tokens)
        self._twins = {
            token.text: chr(_TWINS_FROM + index) for index, token in enumerate(self._tokens)
        }
        letters = sorted({letter for token in tokens for letter in token.text})
        self._stand_ins = {
            letter: chr(_STAND_INS_FROM + index) for index, letter in enumerate(letters)
        }
        self._originals = {one: letter for letter, one in self._stand_ins.items()}
        texts = list(self._twins)
        self._beginnings = frozenset(text[:k] for text in texts for k in range(1, len(text)))
        self._endings = frozenset(text[-k:] for text in texts for k in range(1, len(text)))
        self._longest = max(map(len, texts), default=0)
        self._first_letters = frozenset(text[0] for text in texts)
        self._last_letters = frozenset(text[-1] for text in texts)
        self._border_letters = tuple(self._first_letters | self._last_letters)
        self._all_texts = _BREAK.join(texts)
        self._lstripping = frozenset(token.text for token in tokens if token.lstrip)
        self.cuts_everywhere = not self._lstripping
        """Whether `pieces` cuts before every special token, so that a piece has at most one."""
        either = "|".join(map(re.escape, texts)) or r"(?!)"
        # Ranges, because a character class that lists distant characters one by one is slow.
        reserved = "".join(
            f"{chr(first)}-{chr(first + count - 1)}"
            for first, count in ((_TWINS_FROM, len(texts)), (_STAND_INS_FROM, len(letters)))
            if count
        )
        self._somewhere = re.compile(either)
        # Texts may overlap, so it tries every position. That is slow, and rarely needed.
        self._everywhere = re.compile(rf"(?=(?:{either}))(.)", re.DOTALL)
        self._reserved = re.compile(f"[{reserved}{_BREAK}]")
        stand_ins = "".join(self._originals)
        self._shielded = re.compile(f"[{stand_ins[0]}-{stand_ins[-1]}]" if stand_ins else r"(?!)")
        self._written = re.compile("|".join(token.pattern for token in self._tokens) or r"(?!)")
        self._marks = re.compile(f"[{''.join(self._twins.values())}]" if texts else r"(?!)")

    def install(self, tokenizer: Tokenizer) -> dict[int, int | None]:
        """Adds the private characters to `tokenizer`; maps their new ids to what they represent.

        `None` is a break between two tokens. From then on the tokenizer reads the text of a special
        token as plain text.
        """
        known = set(tokenizer.get_vocab(with_added_tokens=True).values())
        tokenizer.add_tokens(
            [
                AddedToken(
                    self._twins[token.text],
                    single_word=False,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=False,
                    special=False,
                )
                for token in self._tokens
            ]
            + [AddedToken(_BREAK, normalized=False, special=False)]
        )
        tokenizer.encode_special_tokens = True
        meanings = {self._twins[token.text]: token.id for token in self._tokens}
        ids: dict[int, int | None] = {}
        for character, meaning in [*meanings.items(), (_BREAK, None)]:
            if (added := tokenizer.token_to_id(character)) is not None:
                ids[added] = meaning
        if len(ids) != len(self._tokens) + 1 or not known.isdisjoint(ids):
            raise ValueError("the vocabulary leaves no room for twins of its special tokens")
        return ids

    def broken(self, text: str) -> str:
        """Inserts a break inside the text of every special token in `text`."""
        return self._everywhere.sub(lambda match: match[1] + _BREAK, text)

    def shield(self, text: str) -> str:
        """Changes `text` so that neither it nor its ends can be read as a special token."""
        text = self.without_reserved(text)
        if self._is_harmless(text):
            return text
        if next(self._matches(self._somewhere, text), None) is not None:
            text = self._exchanged(self._everywhere, text, lambda one: self._stand_ins[one[1]])
        core = text.strip()
        if not core:
            return text
        start = text.index(core[0])
        end = start + len(core) - 1
        if self._could_end_here(core):
            text = text[:start] + self._stand_in(text[start]) + text[start + 1 :]
        if self._could_begin_here(core):
            text = text[:end] + self._stand_in(text[end]) + text[end + 1 :]
        return text

    def pieces(self, text: str) -> list[tuple[str, str]]:
        """Cuts a shielded text before every special token in it.

        Each piece is the twin of its special token and the unshielded text after it. The first
        piece has no twin if the text does not begin with a special token. Tokenizers extract
        special tokens before anything else, so a piece gets the same ids at any position. There is
        no cut before a token that includes the white space in front of it.
        """
        pieces: list[tuple[str, str]] = []
        twin, behind, start = "", "", 0
        is_plain = text.isascii()
        for match in self._matches(self._written, text):
            first, end = match.span()
            between = text[start:first]
            behind += between if is_plain else self.unshield(between)
            start, written = end, match[0]
            if written in self._lstripping:
                behind += self._twins[written]
                continue
            if twin or behind:
                pieces.append((twin, behind))
            twin, behind = self._twins[written], ""
        behind += self.unshield(text[start:])
        if twin or behind:
            pieces.append((twin, behind))
        return pieces

    def mark(self, text: str) -> str:
        """Replaces the text of every special token in `text` by its twin."""
        if len(text) <= _WINDOW:
            return self._written.sub(lambda match: self._twins[match[0]], text)
        marked, start = StringIO(), 0
        for match in self._matches(self._written, text):
            marked.write(text[start : match.start()])
            marked.write(self._twins[match[0]])
            start = match.end()
        marked.write(text[start:])
        return marked.getvalue()

    def unshield(self, text: str) -> str:
        """Replaces the stand-ins in `text` by the original characters."""
        if text.isascii():
            return text
        return self._exchanged(self._shielded, text, lambda one: self._originals[one[0]])

    def marks(self, text: str) -> list[str]:
        """The twins in a marked text, in order."""
        return self._marks.findall(text)

    def without_reserved(self, text: str) -> str:
        """Replaces the private characters in a caller's `text` by U+FFFD."""
        if text.isascii():
            return text
        return self._exchanged(self._reserved, text, lambda _: "\ufffd")

    def _matches(self, pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
        """`pattern.finditer`, in steps; other threads may run between two steps."""
        return pattern.finditer(text) if len(text) <= _WINDOW else self._stepwise(pattern, text)

    def _stepwise(self, pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
        start = 0
        while start < len(text):
            end = start + _WINDOW
            # A match that begins in the window may end after it.
            match = pattern.search(text, start, end + self._longest + 1)
            if match is None or match.start() >= end:
                start = end
            else:
                yield match
                start = match.end()

    def _exchanged(
        self, pattern: re.Pattern[str], text: str, other: Callable[[re.Match[str]], str]
    ) -> str:
        """Replaces each match in `text` by the one character that `other` returns."""
        if len(text) <= _WINDOW:
            return pattern.sub(other, text)
        windows = StringIO()
        for start in range(0, len(text), _WINDOW):
            # The text after the window is needed to match; it is replaced in its own window.
            window = text[start : start + _WINDOW + self._longest + 1]
            windows.write(pattern.sub(other, window)[:_WINDOW])
        return windows.getvalue()

    def _stand_in(self, letter: str) -> str:
        return self._stand_ins.get(letter, letter)

    def _is_harmless(self, text: str) -> bool:
        """Whether no special token can begin, end or continue in `text`; a quick check for most."""
        for letter in self._border_letters:
            if letter in text:
                return False
        core = text.strip()
        return len(core) >= self._longest or core not in self._all_texts

    def _could_end_here(self, core: str) -> bool:
        """Whether a special token that begins before `core` could end in it, or contain it."""
        if len(core) < self._longest and core in self._all_texts:
            return True
        if self._last_letters.isdisjoint(core[: self._longest]):
            return False
        return any(core[:k] in self._endings for k in range(1, min(self._longest, len(core) + 1)))

    def _could_begin_here(self, core: str) -> bool:
        """Whether a special token that begins in `core` could end after it."""
        if self._first_letters.isdisjoint(core[-self._longest :]):
            return False
        longest = min(self._longest, len(core) + 1)
        return any(core[-k:] in self._beginnings for k in range(1, longest))
