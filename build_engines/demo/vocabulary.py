"""The chat model's tokenizer and the text that its template makes of a conversation."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from . import corpus
from .dialogue import Dialogue

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN_START, TURN_END)
MARKS = (
    "<tool_call>",
    "</tool_call>",
    "<tools>",
    "</tools>",
    "<tool_response>",
    "</tool_response>",
)
CONTEXT_TOKENS = 2048

# A capitalised word never carries the space before it: a name has one spelling in tokens wherever
# it stands, which is what makes it easy to copy. Digits stand alone.
_PIECES = (
    r"\p{N}| ?[\p{Ll}\p{Lo}\p{M}]+|\p{Lu}+(?!\p{Ll})|[\p{Lu}\p{Lt}][\p{Ll}\p{M}]*"
    r"| ?[^\s\p{L}\p{N}\p{M}]+|\n|[^\S\n]+|\p{L}"
)


def train_tokenizer(dialogues: int, size: int, seed: int) -> Tokenizer:
    """A byte-level BPE of `size` entries, learnt from the training corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*SPECIAL, *MARKS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        max_token_length=12,
    )
    tokenizer.train_from_iterator(_texts(dialogues, seed), trainer)
    return _with_marks(tokenizer)


def chat_renderer() -> Callable[..., str]:
    """A function of (messages, tools, add_generation_prompt) that applies the chat template."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _to_json
    template = environment.from_string(chat_template())
    return template.render


def chat_template() -> str:
    """The Jinja source that goes into `tokenizer_config.json`."""
    return Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the vocabulary is known to hold."""
    found: int | None = tokenizer.token_to_id(token)
    assert found is not None
    return found


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, str]:
    """The tokenizer's files of a Hugging Face checkpoint, by name."""
    special = {"bos_token": END_OF_TEXT, "eos_token": TURN_END, "pad_token": END_OF_TEXT}
    added = {
        str(tokenizer.token_to_id(one)): {
            "content": one,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": one in SPECIAL,
        }
        for one in (*SPECIAL, *MARKS)
    }
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT_TOKENS,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [TURN_START],
        "added_tokens_decoder": added,
        "chat_template": chat_template(),
        **special,
    }
    mapping = {**special, "additional_special_tokens": [TURN_START]}
    return {
        "tokenizer.json": tokenizer.to_str(pretty=False) + "\n",
        "tokenizer_config.json": json.dumps(described, indent=2, ensure_ascii=False) + "\n",
        "special_tokens_map.json": json.dumps(mapping, indent=2) + "\n",
    }


def _with_marks(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with the tool marks as ordinary text that decoding keeps."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = []
    plain = Tokenizer.from_str(json.dumps(state))
    plain.add_special_tokens([AddedToken(one, normalized=False, special=True) for one in SPECIAL])
    plain.add_tokens([AddedToken(one, normalized=False, special=False) for one in MARKS])
    return plain


def _texts(dialogues: int, seed: int) -> Iterator[str]:
    stream = itertools.islice(corpus.training_dialogues(seed, "main"), dialogues)
    for one in stream:
        yield _words(one)


def _words(dialogue: Dialogue) -> str:
    return "\n".join(str(message) for message in _contents(dialogue))


def _contents(dialogue: Dialogue) -> Iterator[str]:
    for turn in dialogue.turns:
        yield turn.role
        yield turn.content
        for name, arguments in turn.calls:
            yield _to_json({"name": name, "arguments": arguments})
    for tool in dialogue.tools:
        yield _to_json(tool)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
