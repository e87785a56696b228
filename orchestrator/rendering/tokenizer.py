"""A model's tokenizer: text to ids, with special tokens only where they are meant."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from orchestrator.rendering.files import RenderingError, TokenizerFiles
from orchestrator.rendering.special_tokens import SpecialToken, SpecialTokens


class PromptTokenizer:
    """Encodes prompts and lends its vocabulary to detokenisers. Immutable, thread-safe."""

    def __init__(self, files: TokenizerFiles, markers: Collection[str] = ()) -> None:
        """`markers` are texts that mean something where they are tokens, special ones or not."""
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
        """Ids that the vocabulary did not have; an engine whose logits are wider may emit them."""
        # The unknown token stands for text that the vocabulary lacks; nobody is fooled by it.
        unknown = self.vocabulary.token_to_id(files.named_tokens.get("unk_token", "<unk>"))
        self._forgeable = self.specials.ids - {unknown}
        self.suspects = self._forgeable | self.private_ids
        """Ids that a caller's plain text must not give."""

    def encode_marked(self, text: str) -> list[int]:
        """The ids of a text whose special tokens are marked; none are added."""
        return self._ids(text, add_special_tokens=False)

    def encode_text(self, text: str) -> list[int]:
        """The ids of a caller's text: no special token in it, the tokenizer's own around it."""
        return self._ids(self.specials.without_reserved(text), add_special_tokens=True)

    def encode_prompt(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a whole prompt in which the caller may write special tokens out."""
        marked = self.specials.mark(self.specials.without_reserved(text))
        return self._ids(marked, add_special_tokens=add_special_tokens)

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids, forged = self._encode(text, add_special_tokens)
        if forged:
            # Some models (Unigram) list special tokens among the pieces of plain text as well.
            ids, _ = self._encode(self.specials.broken(text), add_special_tokens)
        return ids

    def _encode(self, text: str, add_special_tokens: bool) -> tuple[list[int], bool]:
        """The ids, and whether any were left out because plain text gave a special token's id."""
        # The batch call, even for one text, lets other threads run; `encode` holds the GIL.
        encoded = self.vocabulary.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoded[0].ids
        forged = False
        if not self._forgeable.isdisjoint(ids):
            added = encoded[0].special_tokens_mask
            kept = [
                one
                for one, is_added in zip(ids, added, strict=True)
                if is_added or one not in self._forgeable
            ]
            forged, ids = len(kept) < len(ids), kept
        meanings = self._meanings
        if meanings.keys().isdisjoint(ids):
            return ids, forged
        meant = [meanings.get(one, one) for one in ids]
        return [one for one in meant if one is not None], forged


def _load(path: Path, files: TokenizerFiles, special_texts: frozenset[str]) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(files.tokenizer)
    except Exception as error:  # the library raises plain `Exception`
        raise RenderingError(f"{path}: {error}") from error
    # Lengths are checked against the model's context, with an error; nothing is cut in silence.
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


def _special_tokens(tokenizer: Tokenizer, named: frozenset[str]) -> Sequence[SpecialToken]:
    """Those that the vocabulary says are special, and those that other files name as such."""
    return [
        SpecialToken(token_id, token.content, token.lstrip, token.rstrip, token.single_word)
        for token_id, token in tokenizer.get_added_tokens_decoder().items()
        if token.content and (token.special or token.content in named)
    ]
