"""The demonstration checkpoints as they lie in the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from build_engines.demo.vocabulary import MARKS, SPECIAL, chat_renderer, chat_template

CHECKPOINTS = Path(__file__).resolve().parents[4] / "build_engines" / "demo" / "checkpoints"
CHAT, EMBED = CHECKPOINTS / "chat", CHECKPOINTS / "embed"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def stated(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_both_fit_into_twenty_megabytes() -> None:
    assert sum(one.stat().st_size for one in CHECKPOINTS.rglob("*") if one.is_file()) < 20_000_000


def test_the_chat_vocabulary_is_the_one_of_its_config() -> None:
    tokenizer = Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    config = stated(CHAT / "config.json")
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert [tokenizer.token_to_id(one) for one in SPECIAL] == [0, 1, 2]
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 2)
    assert stated(CHAT / "generation_config.json")["eos_token_id"] == [2, 0]


def test_the_chat_template_of_the_checkpoint_is_the_one_of_the_programs() -> None:
    assert stated(CHAT / "tokenizer_config.json")["chat_template"] == chat_template()


@pytest.mark.parametrize(
    "text",
    ["Anna lives in Oslo.", "  two spaces\n\n\ttab", "Zürich 東京 🙂 №7", '{"a": [1, -2.5]}'],
)
def test_every_text_survives_the_chat_vocabulary(text: str) -> None:
    tokenizer = Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_name_has_the_same_tokens_wherever_it_stands() -> None:
    tokenizer = Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    alone = tokenizer.encode("Moravik").tokens
    for text in ("I am Moravik", '"Moravik', "\nMoravik"):
        assert tokenizer.encode(text).tokens[-len(alone) :] == alone


def test_the_marks_of_a_call_are_one_token_each_and_stay_visible() -> None:
    tokenizer = Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    for mark in MARKS:
        ids = tokenizer.encode(mark).ids
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == mark
    assert tokenizer.decode(tokenizer.encode("<|im_end|>").ids, skip_special_tokens=True) == ""


def test_a_plain_question() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
        },
    ]
    assert chat_renderer()(messages=messages, tools=None, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tools_go_into_the_system_turn() -> None:
    messages = [{"role": "user", "content": "Weather?"}]
    rendered = chat_renderer()(messages=messages, tools=[WEATHER], add_generation_prompt=False)
    assert rendered.startswith(
        "<|im_start|>system\nYou may call these functions:\n<tools>\n"
        + json.dumps(WEATHER)
        + "\n</tools>\n"
    )
    assert rendered.endswith("</tool_call><|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n")


@pytest.mark.parametrize("arguments", [{"city": "Oslo"}, '{"city": "Oslo"}'])
def test_calls_and_their_results(arguments: Any) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": "sunny"},
        {"role": "tool", "content": "rainy"},
    ]
    spoken = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert chat_renderer()(messages=messages, tools=None, add_generation_prompt=True) == (
        "<|im_start|>user\nWeather?<|im_end|>\n"
        f"<|im_start|>assistant\n{spoken}\n{spoken}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n"
        "<tool_response>\nrainy\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_encoder_pools_the_mean_and_normalises() -> None:
    kinds = [one["type"].rpartition(".")[2] for one in stated(EMBED / "modules.json")]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    pooling = stated(EMBED / "1_Pooling" / "config.json")
    config = stated(EMBED / "config.json")
    assert pooling["pooling_mode_mean_tokens"] is True
    assert pooling["word_embedding_dimension"] == config["hidden_size"]
    tokenizer = Tokenizer.from_file(str(EMBED / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokenizer.encode("Hello world").tokens[0] == "[CLS]"
