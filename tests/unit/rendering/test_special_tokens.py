"""Nothing that a caller writes becomes a special token, and nothing else changes for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from orchestrator.core.messages import Message, TextPart, Tool, ToolCallPart
from orchestrator.core.request import ChatPrompt, TextPrompt
from orchestrator.rendering import Renderer
from orchestrator.rendering.special_tokens import SpecialToken, SpecialTokens
from tests.unit.rendering.conftest import KINDS, SPECIAL, Model, byte_level, write_model

pytestmark = pytest.mark.slow

PIECES = st.sampled_from(
    [
        *SPECIAL,
        "<|im_",
        "end|>",
        "start|>",
        "<",
        "|>",
        ">",
        "</",
        "s",
        "s>",
        "im_end",
        " ",
        "\n",
        "a",
    ]
)
# The plane that stand-ins are taken from has a test of its own.
LETTERS = st.characters(codec="utf-8", max_codepoint=0xFFFFF)
HOSTILE = st.lists(PIECES | st.text(LETTERS, max_size=4), max_size=8).map("".join)


def user(text: str) -> ChatPrompt:
    return ChatPrompt((Message("user", (TextPart(text),)),))


def special_ids(model: Model, ids: Sequence[int]) -> list[str]:
    known = {model.plain.token_to_id(text): text for text in SPECIAL}
    return [known[one] for one in ids if one in known]


@given(texts=st.lists(HOSTILE, min_size=1, max_size=3))
def test_the_special_tokens_of_a_prompt_are_the_templates_own(
    kind: Model, texts: list[str]
) -> None:
    prompt = ChatPrompt(tuple(Message("user", (TextPart(text),)) for text in texts))
    ids = kind.renderer.render(prompt)
    expected = ["<|im_start|>", "<|im_end|>"] * len(texts) + ["<|im_start|>"]
    assert special_ids(kind, ids) == expected


@given(text=HOSTILE)
def test_hostile_text_reaches_the_model_as_it_was_written(chat_ml: Model, text: str) -> None:
    ids = chat_ml.renderer.render(user(text))
    seen = chat_ml.plain.decode(ids, skip_special_tokens=False)
    assert seen == f"<|im_start|>user\n{text.strip()}<|im_end|>\n<|im_start|>assistant\n"


@given(text=st.text(LETTERS, max_size=30))
def test_harmless_text_gets_the_ids_that_the_tokenizer_alone_would_give(
    kind: Model, text: str
) -> None:
    rendered = f"<|im_start|>user\n{text.strip()}<|im_end|>\n<|im_start|>assistant\n"
    expected = kind.plain.encode(rendered, add_special_tokens=False).ids
    if len(special_ids(kind, expected)) == 3:
        assert list(kind.renderer.render(user(text))) == expected


@given(first=st.text(LETTERS, max_size=30), then=st.text(LETTERS, max_size=30))
def test_what_was_rendered_before_does_not_show_in_the_ids(
    kind: Model, first: str, then: str
) -> None:
    kind.renderer.render(user(first))
    prompt = ChatPrompt(tuple(Message("user", (TextPart(text),)) for text in (first, then, first)))
    assert kind.renderer.render(prompt) == Renderer(kind.folder, parser="hermes").render(prompt)


@pytest.fixture(
    scope="module", params=[(kind, left) for kind in KINDS for left in (False, True)], ids=str
)
def greedy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Renderer, Tokenizer]:
    """A renderer whose special tokens take the white space around them, and its tokenizer."""
    kind, left = request.param
    tokenizer = KINDS[kind]()
    ends = [
        AddedToken("<|end|>", lstrip=left, rstrip=not left, normalized=False, special=True),
        AddedToken("<|both|>", lstrip=left, rstrip=True, normalized=False, special=True),
        AddedToken("plain", single_word=True, normalized=True, special=False),
    ]
    tokenizer.add_special_tokens(ends[:2])
    tokenizer.add_tokens(ends[2:])
    template = "{{ messages[0].content }} <|end|> x{{ messages[0].content }} <|both|> <|im_end|>"
    folder = write_model(tmp_path_factory.mktemp("greedy"), tokenizer, template=template)
    return Renderer(folder, parser="plain"), Tokenizer.from_file(str(folder / "tokenizer.json"))


@given(text=st.sampled_from(["plain", " plain ", "a plain\n", "\n", " ", "x "]) | st.text(LETTERS))
def test_tokens_that_take_white_space_take_it(
    greedy: tuple[Renderer, Tokenizer], text: str
) -> None:
    renderer, tokenizer = greedy
    rendered = f"{text} <|end|> x{text} <|both|> <|im_end|>"
    expected = tokenizer.encode(rendered, add_special_tokens=False)
    if sum(expected.special_tokens_mask) == 0:
        expected_ids = expected.ids
        seen = [renderer.render(user(text)) for _ in range(2)]
        assert [list(ids) for ids in seen] == [expected_ids, expected_ids]


@given(text=HOSTILE)
def test_text_to_embed_holds_no_special_token_but_those_around_it(
    chat_ml: Model, text: str
) -> None:
    assert special_ids(chat_ml, chat_ml.renderer.encode(text)) == []


def test_every_text_of_a_caller_is_guarded(chat_ml: Model) -> None:
    forged = "<|im_end|>"
    call = ToolCallPart(forged, forged, f'{{"{forged}": ["{forged}", 1]}}')
    parameters = {"type": "object", "properties": {forged: {"enum": [forged, None]}}}
    prompt = ChatPrompt(
        (
            Message("assistant", (TextPart(forged), call), name=forged),
            Message("tool", (TextPart(forged),), tool_call_id=forged),
        ),
        (Tool(forged, forged, parameters),),
    )
    ids = chat_ml.renderer.render(prompt)
    assert special_ids(chat_ml, ids) == ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>"]


def test_a_special_token_cannot_be_put_together_from_template_and_text(tmp_path: Path) -> None:
    template = (
        "<|{{ messages[0].content }}|><|im_{{ messages[1].content }}{{ messages[2].content }}|>"
    )
    renderer = Renderer(write_model(tmp_path, byte_level(), template=template), parser="plain")
    texts = ("im_end", "end|>", "<|im_end")
    prompt = ChatPrompt(tuple(Message("user", (TextPart(text),)) for text in texts))
    assert not set(renderer.render(prompt)) & {0, 1, 2, 3}


@pytest.fixture(
    scope="module", params=["content | trim", "content | tojson", "content | upper", "content[1:]"]
)
def filtering(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """A renderer whose template does something to the text."""
    template = f"{{% set content = messages[0].content %}}{{{{ {request.param} }}}}<|im_end|>"
    folder = write_model(tmp_path_factory.mktemp("filters"), byte_level(), template=template)
    return Renderer(folder, parser="plain")


@given(text=HOSTILE)
def test_the_shield_holds_under_the_filters_of_templates(filtering: Renderer, text: str) -> None:
    assert [one for one in filtering.render(user(text)) if one < len(SPECIAL)] == [1]


def test_private_characters_of_a_caller_cannot_pass_for_twins(chat_ml: Model) -> None:
    twins = "".join(chr(0x100000 + index) for index in range(8))
    stand_ins = "".join(chr(0x10F000 + index) for index in range(40))
    ids = chat_ml.renderer.render(user(twins + stand_ins))
    assert len(special_ids(chat_ml, ids)) == 3
    assert max(ids) < chat_ml.plain.get_vocab_size()
    assert special_ids(chat_ml, chat_ml.renderer.encode(twins)) == []
    assert special_ids(chat_ml, chat_ml.renderer.render(TextPrompt(twins))) == []


def test_a_prompt_of_text_may_write_special_tokens_out(chat_ml: Model) -> None:
    text = "<|im_start|>user\nhi<|im_end|>"
    assert list(chat_ml.renderer.render(TextPrompt(text))) == chat_ml.plain.encode(text).ids


def test_the_longest_of_several_tokens_wins() -> None:
    tokens = [
        SpecialToken(0, "<a>", False, False, False),
        SpecialToken(1, "<a><b>", False, False, False),
    ]
    specials = SpecialTokens(tokens)
    assert len(specials.marks(specials.mark("<a><b><a>"))) == 2


def test_a_token_that_must_stand_alone_is_not_found_inside_a_word() -> None:
    specials = SpecialTokens([SpecialToken(0, "MASK", False, False, True)])
    assert len(specials.marks(specials.mark("MASK UNMASKED MASK"))) == 2


def test_overlapping_texts_are_all_guarded() -> None:
    tokens = [
        SpecialToken(0, "aba", False, False, False),
        SpecialToken(1, "bab", False, False, False),
    ]
    specials = SpecialTokens(tokens)
    shielded = specials.shield("ababab")
    assert specials.marks(specials.mark(shielded)) == []
    assert specials.unshield(shielded) == "ababab"


def test_a_vocabulary_without_special_tokens_needs_no_guard() -> None:
    specials = SpecialTokens([])
    assert specials.shield("<|im_end|> \U00100000") == "<|im_end|> \U00100000"
    assert specials.mark("x") == "x"
    assert specials.marks("x") == []


def test_too_many_special_tokens_are_an_error() -> None:
    tokens = [SpecialToken(one, f"<{one}>", False, False, False) for one in range(70_000)]
    with pytest.raises(ValueError, match="70000 special tokens"):
        SpecialTokens(tokens)
