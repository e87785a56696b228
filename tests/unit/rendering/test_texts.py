"""Texts to embed get the ids that the tokenizer's own slow way gives, by whatever way."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from orchestrator.rendering.files import load_files
from orchestrator.rendering.texts import TextEncoder
from orchestrator.rendering.tokenizer import PromptTokenizer
from orchestrator.rendering.word_pieces import WordPieces, word_pieces
from tests.unit.rendering.conftest import KINDS, bert, write_model

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "user", "embed", "stays", "Data", "##ding", "##s", "##er", "42", "##42", "sep"]
LETTERS = string.ascii_letters + string.digits
SOME = st.sampled_from(["The", "users", "embedding", "[SEP]", "[CLS] the", "Data", "data", "x42"])
TEXTS = st.lists(
    SOME | st.text(string.printable + "\x00\x7f", max_size=8) | st.text(max_size=4), max_size=8
).map(" ".join)


def word_piece(*, lowercase: bool = True, **model: Any) -> Tokenizer:
    """As most English encoders. `z` is no letter of it, so that some words are unknown."""
    letters = [letter for letter in LETTERS if letter != "z"]
    vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary += [*string.punctuation.replace("~", ""), *WORDS]
    ids = {word: index for index, word in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", **model))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def cased() -> Tokenizer:
    return word_piece(lowercase=False)


ENCODERS: Mapping[str, Callable[[], Tokenizer]] = {
    **KINDS, "bert": bert, "uncased": word_piece, "cased": cased,
}  # fmt: skip


def prompt_tokenizer(folder: Path, tokenizer: Tokenizer, **config: Any) -> PromptTokenizer:
    return PromptTokenizer(load_files(write_model(folder, tokenizer, template=None, config=config)))


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PromptTokenizer, TextEncoder]:
    folder = tmp_path_factory.mktemp("encoder")
    # Without a name for it the unknown token counts as one that nobody may write.
    named = {} if request.param == "cased" else {"unk_token": "[UNK]"}
    tokenizer = prompt_tokenizer(folder, ENCODERS[request.param](), **named)
    return tokenizer, TextEncoder(tokenizer)


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_every_way_gives_the_same_ids(
    encoder: tuple[PromptTokenizer, TextEncoder], texts: list[str]
) -> None:
    tokenizer, made = encoder
    one_by_one = [tokenizer.encode_text(text) for text in texts]
    assert made.encode(texts) == one_by_one
    assert made.encode_long(texts) == one_by_one


def pieces_of(tokenizer: Tokenizer) -> WordPieces | None:
    tokenizer.encode_special_tokens = True
    return word_pieces(tokenizer)


def test_plain_text_is_cut_without_the_library() -> None:
    tokenizer = word_piece()
    pieces = pieces_of(tokenizer)
    assert pieces is not None
    text = "The user's embeddings, 4242 of them:\n[SEP] stays\tDATA-free"
    assert pieces.ids(text) == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ["naïve", "a\x0bb", "a\x7f", "~", "fuzz", "a" * 25])
def test_what_takes_more_than_the_vocabulary_is_left_to_the_library(text: str) -> None:
    pieces = pieces_of(word_piece())
    assert pieces is not None
    assert pieces.ids(text) is None


def _not_clean(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=False)


def _other_normalizer(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Lowercase()


def _other_words(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()


def _added_words(tokenizer: Tokenizer) -> None:
    tokenizer.add_tokens([AddedToken("stays here")])


def _short_words(tokenizer: Tokenizer) -> None:
    tokenizer.model = word_piece(max_input_chars_per_word=5).model


def _other_model(tokenizer: Tokenizer) -> None:
    tokenizer.model = models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]")


@pytest.mark.parametrize(
    "change",
    [_not_clean, _other_normalizer, _other_words, _added_words, _short_words, _other_model],
)
def test_other_tokenizers_keep_to_the_library(change: Callable[[Tokenizer], None]) -> None:
    tokenizer = word_piece()
    change(tokenizer)
    assert pieces_of(tokenizer) is None


def test_a_tokenizer_that_differs_in_the_trial_keeps_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WordPieces, "ids", lambda self, text: [0])
    assert pieces_of(word_piece()) is None


def test_a_special_token_that_is_a_plain_word_takes_a_closer_look(tmp_path: Path) -> None:
    tokenizer = word_piece()
    tokenizer.add_special_tokens(["stays"])
    made = prompt_tokenizer(tmp_path, tokenizer, unk_token="[UNK]")
    assert TextEncoder(made).encode(["it stays"]) == [made.encode_text("it stays")]
    assert made.vocabulary.token_to_id("stays") not in TextEncoder(made).encode(["it stays"])[0]


def test_a_frame_that_repeats_the_text_is_left_to_the_library(tmp_path: Path) -> None:
    tokenizer = word_piece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP] $A", special_tokens=[("[SEP]", 3)]
    )
    made = prompt_tokenizer(tmp_path, tokenizer, unk_token="[UNK]")
    for encode in (TextEncoder(made).encode, TextEncoder(made).encode_long):
        assert encode(["the user"]) == [made.encode_text("the user")]
