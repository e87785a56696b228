"""Three small tokenizers, each with a way of its own to write spaces and bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from orchestrator.contract.catalogue import Reasoning
from orchestrator.core.messages import Message, TextPart, Tool
from orchestrator.core.request import ChatPrompt, GenerationRequest, ToolChoice, ToolMode
from orchestrator.rendering import Decoder, Renderer

# Times of single examples say nothing on a machine that others use too.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

SPECIAL = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
CORPUS = [
    "the system asks the user, and the assistant answers in words",
    "Zürich liegt am See; 東京は大きい。 naïve café — 😀 👩‍👩‍👧 ok",
    "  two  spaces, a\ttab and\n\na blank line",
    '{"name": "weather", "arguments": {"city": "Oslo"}}',
]
CHAT_ML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen: bytes are letters, the space belongs to the word after it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama 2: `▁` for spaces, one put in front, unknown characters as bytes."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    letters = sorted({letter for text in CORPUS for letter in text if letter.isascii()} - {" "})
    for letter in ["▁", *letters, "▁t", "he", "▁the"]:
        vocabulary.setdefault(letter, len(vocabulary))
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def metaspace() -> Tokenizer:
    """As T5 and the newer Llama conversions: `▁` in front of the first word only."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    letters = sorted({letter for text in CORPUS for letter in text})
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<unk>", *SPECIAL],
        unk_token="<unk>",
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer


def bert() -> Tokenizer:
    """An encoder's tokenizer, which puts `[CLS]` and `[SEP]` around a text, and cuts it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "user", "[", "]", "sep", "##s", "cls"]
    tokenizer = Tokenizer(
        models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(words[:4])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    return tokenizer


KINDS: Mapping[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "metaspace": metaspace,
}


def write_model(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    template: str | None = CHAT_ML,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A model directory with the tokenizer's files in it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    entries = {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}, **(config or {})}
    if template is not None:
        entries["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Each kind of tokenizer in turn."""
    return _model(KINDS[request.param](), tmp_path_factory.mktemp("kind"))


@pytest.fixture(scope="session")
def chat_ml(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A byte-level model with a ChatML template."""
    return _model(byte_level(), tmp_path_factory.mktemp("chat"))


def asking(
    *tools: str,
    stop: tuple[str, ...] = (),
    mode: ToolMode = "auto",
    parallel: bool = True,
    prefill: str = "",
) -> GenerationRequest:
    """A request that says hello, and offers `tools` by their names."""
    offered = tuple(Tool(name, "", {}) for name in tools)
    prompt = ChatPrompt((Message("user", (TextPart("hello"),)),), offered, prefill)
    choice = ToolChoice(mode, tools[0] if mode == "named" else "")
    return GenerationRequest(
        "m", prompt, stop=stop, tool_choice=choice, parallel_tool_calls=parallel
    )


class Model:
    """A renderer, and beside it the tokenizer as it was before the renderer got hold of it."""

    def __init__(self, folder: Path, *, reasoning: Reasoning = "none") -> None:
        self.folder = folder
        self.renderer = Renderer(folder, parser="hermes", reasoning=reasoning)
        self.plain = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def decoder(self, *tools: str, stop: tuple[str, ...] = (), choice: int = 0) -> Decoder:
        """A decoder for an answer to `asking`."""
        return self.renderer.decoder(choice, asking(*tools, stop=stop), ())

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, all at once."""
        return self.plain.decode(ids, skip_special_tokens=True)


def _model(tokenizer: Tokenizer, folder: Path) -> Model:
    return Model(write_model(folder, tokenizer))
