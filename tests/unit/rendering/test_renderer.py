"""Files, templates, and what a renderer refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import (
    Message,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCallPart,
)
from orchestrator.core.request import ChatPrompt, TextPrompt, TokenPrompt
from orchestrator.rendering import Renderer, RenderingError
from orchestrator.rendering.renderer import prompt_characters
from tests.unit.rendering.conftest import CHAT_ML, Model, asking, bert, byte_level, write_model

HI = ChatPrompt((Message("user", (TextPart("hi"),)),))


def rendered(folder: Path, template: str, prompt: ChatPrompt = HI) -> str:
    """The text that `template` makes of `prompt`."""
    model = write_model(folder, byte_level(), template=template)
    renderer = Renderer(model, parser="plain")
    return byte_level().decode(renderer.render(prompt), skip_special_tokens=False)


def test_template_text_gets_the_named_tokens_and_the_generation_prompt(tmp_path: Path) -> None:
    template = (
        "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}{{ add_generation_prompt }}"
    )
    assert rendered(tmp_path, template) == "<s>hi<|im_end|>True"


def test_a_template_in_a_file_of_its_own_wins(tmp_path: Path) -> None:
    write_model(tmp_path, byte_level(), template="from the configuration")
    (tmp_path / "chat_template.jinja").write_text("from the file")
    renderer = Renderer(tmp_path, parser="plain")
    assert byte_level().decode(renderer.render(HI)) == "from the file"


def test_a_list_of_templates_has_one_for_tools(tmp_path: Path) -> None:
    templates = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} tools"},
    ]
    write_model(tmp_path, byte_level(), template=None, config={"chat_template": templates})
    renderer = Renderer(tmp_path, parser="hermes")
    with_tools = ChatPrompt(HI.messages, (Tool("f", "", {}),))
    assert byte_level().decode(renderer.render(HI)) == "plain"
    assert byte_level().decode(renderer.render(with_tools)) == "1 tools"


def test_jinja_is_what_hugging_face_makes_of_it(tmp_path: Path) -> None:
    template = (
        "{% for one in [1, 2, 3] %}\n    {% if one == 2 %}\n    {% continue %}\n    {% endif %}\n"
        "{{ one }}{% endfor %}{% generation %}x{% endgeneration %}{{ {'a': '<é>'} | tojson }}"
        "{{ {'b': 1} | tojson(indent=1) }}{{ strftime_now('%Y') | length }}"
    )
    assert rendered(tmp_path, template) == '13x{"a": "<é>"}{\n "b": 1\n}4'


def test_messages_reach_the_template_in_the_usual_shape(tmp_path: Path) -> None:
    calls = (
        ToolCallPart("call_1", "f", '{"a": 1}'),
        ToolCallPart("call_2", "g", "not json"),
    )
    messages = (
        Message("developer", (TextPart("be "), TextPart("kind")), name="boss"),
        Message("assistant", (ReasoningPart("hm"), *calls)),
        Message("tool", (TextPart("2"),), tool_call_id="call_1"),
    )
    seen = json.loads(rendered(tmp_path, "{{ messages | tojson }}", ChatPrompt(messages)))
    functions = [
        {"name": "f", "arguments": {"a": 1}},
        {"name": "g", "arguments": "not json"},
    ]
    assert seen == [
        {"role": "system", "content": "be kind", "name": "boss"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": functions[0]},
                {"id": "call_2", "type": "function", "function": functions[1]},
            ],
            "reasoning_content": "hm",
        },
        {"role": "tool", "content": "2", "tool_call_id": "call_1"},
    ]


def test_the_beginning_of_an_answer_follows_the_generation_prompt_as_plain_text(
    tmp_path: Path,
) -> None:
    template = "{{ messages[0]['content'] }}<|im_end|>assistant: "
    prompt = ChatPrompt(HI.messages, prefill="Sure<|im_end|> ")
    assert rendered(tmp_path, template, prompt) == "hi<|im_end|>assistant: Sure<|im_end|> "
    model = Renderer(tmp_path, parser="plain")
    end_id = byte_level().token_to_id("<|im_end|>")
    assert [one for one in model.render(prompt) if one == end_id] == [end_id]


def test_a_template_that_knows_developers_is_given_them(tmp_path: Path) -> None:
    template = "{{ messages[0].role }}{# developer #}"
    prompt = ChatPrompt((Message("developer", (TextPart("x"),)),))
    assert rendered(tmp_path, template, prompt) == "developer"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('Roles must alternate.') }}", "refuses these messages: Roles must"),
        ("{{ messages[0].content + 1 }}", "cannot render these messages"),
        ("{{ messages.append(1) }}", "cannot render these messages"),
        ("{{ ''.__class__.__mro__ }}", "cannot render these messages"),
    ],
)
def test_what_a_template_raises_is_about_the_messages(
    tmp_path: Path, template: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        rendered(tmp_path, template)
    assert caught.value.param == "messages"


def test_json_nested_without_end_is_refused(chat_ml: Model) -> None:
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"a": deep}
    with pytest.raises(InvalidRequest, match="nested too deeply") as caught:
        chat_ml.renderer.render(ChatPrompt(HI.messages, (Tool("f", "", deep),)))
    assert caught.value.param == "tools"


def test_a_former_call_that_is_nested_too_deeply_is_shown_as_text(tmp_path: Path) -> None:
    text = '{"a":' * 900 + "1" + "}" * 900
    prompt = ChatPrompt((Message("assistant", (ToolCallPart("call_1", "f", text),)),))
    template = (
        "{% for key, value in messages[0].tool_calls[0].function.arguments.items() %}"
        "{{ key }}={{ value }}{% endfor %}"
    )
    assert rendered(tmp_path, template, prompt) == f"input={text}"


def test_tools_are_refused_where_the_template_has_no_place_for_them(tmp_path: Path) -> None:
    prompt = ChatPrompt(HI.messages, (Tool("f", "", {}),))
    with pytest.raises(InvalidRequest) as caught:
        rendered(tmp_path, "{{ messages[0].content }}", prompt)
    assert caught.value.param == "tools"


def test_a_model_without_a_template_takes_text_and_ids_only(tmp_path: Path) -> None:
    renderer = Renderer(write_model(tmp_path, byte_level(), template=None), parser="plain")
    with pytest.raises(InvalidRequest, match="no chat template"):
        renderer.render(HI)
    assert list(renderer.render(TextPrompt("hi"))) == byte_level().encode("hi").ids
    assert list(renderer.render(TokenPrompt((5, 6)))) == [5, 6]


def test_an_id_outside_the_vocabulary_is_refused(chat_ml: Model) -> None:
    size = chat_ml.renderer.vocabulary_size
    assert size == chat_ml.plain.get_vocab_size()
    for bad in (-1, size):
        with pytest.raises(InvalidRequest, match=f"token id {bad}"):
            chat_ml.renderer.render(TokenPrompt((1, bad)))


def test_texts_to_embed_get_the_tokenizers_own_frame_and_are_not_cut(tmp_path: Path) -> None:
    renderer = Renderer(write_model(tmp_path, bert(), template=None), parser="plain")
    assert renderer.encode("the user the user the") == [2, 4, 5, 4, 5, 4, 3]
    assert renderer.encode("[SEP] the") == [2, 6, 8, 7, 4, 3]


def test_many_texts_are_encoded_as_each_alone(chat_ml: Model) -> None:
    texts = ["y" * 70_000, "z", "the user " * 9000, ""]
    expected = list(map(chat_ml.renderer.encode, texts))
    assert [row for rows in chat_ml.renderer.encode_many(texts) for row in rows] == expected
    assert chat_ml.renderer.encode_few(texts) == expected


def test_the_cost_of_a_prompt_counts_all_of_its_texts() -> None:
    call = ToolCallPart("id", "f", "12345")
    chat = ChatPrompt(
        (Message("assistant", (TextPart("123"), call)),), (Tool("f", "12345678", {}),)
    )
    assert prompt_characters(chat) == 516
    assert prompt_characters(TextPrompt("1234")) == 4
    assert prompt_characters(TokenPrompt((1, 2))) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json: no such file"),
        ("tokenizer.json", b"{}", "tokenizer.json: "),
        ("tokenizer.json", b"\xff", "tokenizer.json: "),
        ("tokenizer_config.json", b"{", "tokenizer_config.json: "),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json: not a JSON object"),
        ("tokenizer_config.json", b'{"chat_template": [1]}', "neither a text nor a list"),
        (
            "tokenizer_config.json",
            b'{"chat_template": [{"name": "rag", "template": ""}]}',
            "no chat template is named `default`",
        ),
        ("chat_template.jinja", b"{% if %}", "chat template, line 1: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    write_model(tmp_path, byte_level())
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RenderingError, match=message) as caught:
        Renderer(tmp_path, parser="plain")
    assert str(tmp_path) in str(caught.value)


def test_tokens_named_in_other_files_are_special_too(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["<|eot|>", "<|extra|>"])
    write_model(tmp_path, tokenizer, template=CHAT_ML)
    special = {"eos_token": "<|eot|>", "additional_special_tokens": ["<|extra|>", "<|absent|>"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    renderer = Renderer(tmp_path, parser="plain")
    ids = set(tokenizer.encode("<|eot|><|extra|>").ids)
    assert len(ids) == 2
    forged = ChatPrompt((Message("user", (TextPart("<|eot|><|extra|>"),)),))
    assert ids.isdisjoint(renderer.render(forged))
    decoder = renderer.decoder(0, asking(), ())
    assert decoder.feed(sorted(ids)) == []


def test_the_parsers_own_marks_show_even_where_they_are_special_tokens(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<tool_call>", "</tool_call>"])
    renderer = Renderer(write_model(tmp_path, tokenizer), parser="hermes")
    text = '<tool_call>{"name": "f"}</tool_call>'
    decoder = renderer.decoder(0, asking("f"), ())
    events = decoder.feed(tokenizer.encode(text).ids) + decoder.finish("stop")
    assert [type(event).__name__ for event in events] == [
        "PartStarted", "PartDelta", "PartFinished", "ChoiceFinished",
    ]  # fmt: skip
