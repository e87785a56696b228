"""The bytes of single tokens add up to the text of all, in every kind of vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from tokenizers import Tokenizer, models

from orchestrator.rendering import Renderer
from orchestrator.rendering.token_bytes import TokenBytes
from tests.unit.rendering.conftest import (
    Model,
    bert,
    byte_fallback,
    byte_level,
    metaspace,
    write_model,
)
from tests.unit.rendering.test_decoder import TEXTS


@given(text=TEXTS)
def test_the_bytes_of_tokens_add_up_to_the_text(kind: Model, text: str) -> None:
    ids = kind.plain.encode(text, add_special_tokens=False).ids
    raw = b"".join(kind.renderer.token_bytes(one) for one in ids)
    whole = kind.plain.decode(ids, skip_special_tokens=False)
    # Some put a space before the first word, which is no part of the text.
    assert raw.decode() in (whole, f" {whole}")


@pytest.mark.parametrize("make", [byte_level, byte_fallback, metaspace, bert])
def test_special_tokens_are_their_own_text(tmp_path: Path, make: object) -> None:
    tokenizer = make()  # type: ignore[operator]  # one of the four above
    renderer = Renderer(write_model(tmp_path, tokenizer, template=None), parser="plain")
    for token_id, token in tokenizer.get_added_tokens_decoder().items():
        assert renderer.token_bytes(token_id) == token.content.encode()


def test_a_byte_of_a_character_is_that_byte() -> None:
    for tokenizer in (byte_level(), byte_fallback()):
        raw = TokenBytes(tokenizer)
        ids = tokenizer.encode("東", add_special_tokens=False).ids
        assert len(ids) > 1
        assert b"".join(map(raw.of, ids)).strip() == "東".encode()


def test_pieces_of_other_vocabularies_are_text_as_they_stand() -> None:
    words = TokenBytes(Tokenizer(models.WordLevel({"the": 0, "▁": 1, "<0x0A>": 2}, "the")))
    assert [words.of(one) for one in range(4)] == [b"the", "▁".encode(), b"<0x0A>", b""]


@given(text=TEXTS)
def test_a_known_text_is_what_its_token_adds_behind_any_other(kind: Model, text: str) -> None:
    known = TokenBytes(kind.plain)
    ids = kind.plain.encode(text, add_special_tokens=False).ids
    for end, token_id in enumerate(ids):
        before, whole = (
            kind.plain.decode(ids[:at], skip_special_tokens=False) for at in (end, end + 1)
        )
        assert known.texts[token_id] in ("", whole[len(before) :])


def test_only_whole_characters_of_byte_level_vocabularies_are_known() -> None:
    tokenizer = byte_level()
    known = TokenBytes(tokenizer)
    special = next(iter(tokenizer.get_added_tokens_decoder()))
    parts = tokenizer.encode("東", add_special_tokens=False).ids
    assert known.texts[tokenizer.encode("a", add_special_tokens=False).ids[0]] == "a"
    assert [known.texts[one] for one in (special, *parts, 10**6)] == [""] * (len(parts) + 2)
    other = byte_fallback()
    assert TokenBytes(other).texts[other.encode("a", add_special_tokens=False).ids[-1]] == ""
