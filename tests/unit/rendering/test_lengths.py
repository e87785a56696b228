"""Long prompts: refused by their length where it says enough, and the same tokens in steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers

from orchestrator.core.messages import Message, ReasoningPart, TextPart, ToolCallPart
from orchestrator.core.request import ChatPrompt, TextPrompt, TokenPrompt
from orchestrator.rendering import Renderer, renderer, special_tokens, tokenizer
from orchestrator.rendering.lengths import BYTES_A_TOKEN, Lengths
from orchestrator.rendering.renderer import (
    LONG_PROMPT_CHARACTERS,
    PromptTooLongError,
    rendering_size,
)
from orchestrator.rendering.special_tokens import SpecialTokens
from orchestrator.rendering.token_bytes import TokenBytes
from tests.unit.rendering.conftest import (
    SPECIAL,
    Model,
    bert,
    byte_fallback,
    byte_level,
    metaspace,
    write_model,
)

PIECES = ["a", "the user", " ", "\n\n", "12", "é", "e\u0301", "東京", "<|im_end|>", "--", "\t  "]


def lengths(vocabulary: Tokenizer) -> Lengths:
    size = max(vocabulary.get_vocab(with_added_tokens=True).values()) + 1
    return Lengths(vocabulary, TokenBytes(vocabulary), size)


COMPOSING = byte_level()
COMPOSING.normalizer = normalizers.NFC()
BOUNDS = [(one, lengths(one)) for one in (byte_level(), COMPOSING)]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40))
def test_no_text_has_fewer_tokens(pieces: list[str]) -> None:
    text = "".join(pieces).encode("utf-8", "replace").decode()
    for vocabulary, bound in BOUNDS:
        tokens = len(vocabulary.encode(text, add_special_tokens=False).ids)
        assert bound.fewest(text) <= tokens
        assert bound.fewest(text, kept=False) <= bound.fewest(text)


def test_each_kind_of_byte_counts_by_itself() -> None:
    _, bound = BOUNDS[0]
    # Neither letters nor digits can hide in the longest token, which is a special one.
    assert bound.fewest("1" * 1000) == 1000
    assert bound.fewest("a" * 10_000) > 10_000 // max(map(len, SPECIAL))
    assert bound.fewest(" " * 1000, kept=False) == 0


@pytest.mark.parametrize("make", [byte_fallback, metaspace, bert])
def test_where_tokens_can_stand_for_any_text_only_the_rule_holds(
    make: Callable[[], Tokenizer],
) -> None:
    assert lengths(make()).fewest("x" * 6400) == 6400 // BYTES_A_TOKEN


def test_a_prompt_has_a_token_for_each_message_and_id(chat_ml: Model) -> None:
    many = ChatPrompt((Message("user", (TextPart(""),)),) * 50)
    assert chat_ml.renderer.fewest_tokens(many, 100) == 50
    assert chat_ml.renderer.fewest_tokens(TokenPrompt((1,) * 70), 100) == 70


def test_what_a_template_may_drop_is_no_proof_but_for_much_of_it(chat_ml: Model) -> None:
    for part in (TextPart("1" * 6400), ReasoningPart("1" * 6400)):
        said = ChatPrompt((Message("assistant", (part,)), Message("user", (TextPart("22"),))))
        assert chat_ml.renderer.fewest_tokens(said, 100) == 2
        assert chat_ml.renderer.fewest_tokens(said, 99) == 100
    spaces = ChatPrompt((Message("user", (TextPart(" " * 6400),)),))
    assert chat_ml.renderer.fewest_tokens(spaces, 200) == 1


LONG = {
    "words": "the user asked and the assistant answered " * 300,
    "one letter": "a" * 9000,
    "special tokens": "<|im_end|> the user " * 500,
    "spelt apart": "<|im_" * 700 + "end|>" * 900,
    "beyond ASCII": "Zürich 東京 \U00100000 \U0010fffd the café " * 300,
    "lines": "the\nuser\n\n  asks  \t" * 400,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
@pytest.mark.parametrize("make", [byte_level, byte_fallback, metaspace])
def test_a_long_prompt_has_the_same_tokens_in_steps(
    tmp_path: Path, make: Callable[[], Tokenizer], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = ChatPrompt((Message("user", (TextPart(text),)), Message("assistant", (TextPart("x"),))))
    written = TextPrompt(f"<s>{text}<|im_end|>")
    folder = write_model(tmp_path, make())
    whole = Renderer(folder, parser="plain")
    expected = [whole.render(chat), whole.render(written)]
    monkeypatch.setattr(special_tokens, "_WINDOW", 64)
    monkeypatch.setattr(tokenizer, "MAX_PIECE_CHARACTERS", 500)
    monkeypatch.setattr(renderer, "MAX_PIECE_CHARACTERS", 500)
    stepwise = Renderer(folder, parser="plain")
    assert [stepwise.render(chat), stepwise.render(written)] == expected
    assert stepwise.render(chat, None, "", len(expected[0])) == expected[0]


def test_no_more_is_tokenised_than_shows_that_it_is_too_much(
    chat_ml: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "MAX_PIECE_CHARACTERS", 500)
    monkeypatch.setattr(renderer, "MAX_PIECE_CHARACTERS", 500)
    text = "the user " * 20_000
    whole = len(chat_ml.renderer.render(TextPrompt(text)))
    most = whole // 2
    monkeypatch.setattr(chat_ml.renderer._lengths, "_most", (10**9,))
    for prompt in (TextPrompt(text), ChatPrompt((Message("user", (TextPart(text),)),))):
        with pytest.raises(PromptTooLongError) as refused:
            chat_ml.renderer.render(prompt, None, "", most)
        assert most < refused.value.fewest <= most + 500


def test_a_rendered_text_that_is_too_long_is_not_tokenised(
    chat_ml: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(tokenizer.PromptTokenizer, "encode_shielded", encode)
    said = ChatPrompt((Message("assistant", (TextPart("1" * 70_000),)),))
    with pytest.raises(PromptTooLongError, match="at least 70000 tokens"):
        chat_ml.renderer.render(said, None, "", 60_000)


def test_specials_are_searched_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.rendering.special_tokens import SpecialToken

    made = SpecialTokens(
        [SpecialToken(at, text, False, False, at == 0) for at, text in enumerate(SPECIAL)]
    )
    texts = ["<s>" * 50 + "x<s", "<|im_start|>" * 9, "x<|im_start|>x </s></s><s>" * 30]
    expected = [(made.shield(text), made.mark(text), made.pieces(text)) for text in texts]
    for window in (1, 2, 7, 12, 13):
        monkeypatch.setattr(special_tokens, "_WINDOW", window)
        assert [(made.shield(one), made.mark(one), made.pieces(one)) for one in texts] == expected


def test_many_empty_messages_and_calls_are_a_long_prompt() -> None:
    empty = Message("user", (TextPart(""),))
    assert rendering_size(ChatPrompt((empty,) * 200)) > LONG_PROMPT_CHARACTERS
    calls = Message("assistant", (ToolCallPart("call_1", "f", ""),) * 200)
    assert rendering_size(ChatPrompt((calls,))) > LONG_PROMPT_CHARACTERS
    assert rendering_size(ChatPrompt((empty,) * 20)) < LONG_PROMPT_CHARACTERS
