"""Small checkpoints of every supported shape, made by numpy from a fixed seed.

The same files are read by the recorder (torch, once) and by the tests (our converter).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

BYTE_TOKENS = 256
BOS_ID, END_ID, PAD_ID, EXTRA_END_ID = 256, 257, 258, 259
VOCAB_SIZE = 272

_DECODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "bos_token_id": BOS_ID,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
    "tie_word_embeddings": True,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
DECODER_CONFIGS: Mapping[str, dict[str, Any]] = {
    "llama": _DECODER | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "llama3": _DECODER
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "tie_word_embeddings": False,
        "rope_theta": 500000.0,
        "rope_scaling": _LLAMA3_ROPE,
    },
    "qwen2": _DECODER | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": _DECODER
    | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32},
    "mistral": _DECODER
    | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "tie_word_embeddings": False,
        "sliding_window": None,
    },
}
_ENCODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
    "max_position_embeddings": 130,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
ENCODER_CONFIGS: Mapping[str, dict[str, Any]] = {
    "bert": _ENCODER | {"architectures": ["BertModel"], "model_type": "bert"},
    "roberta": _ENCODER
    | {
        "architectures": ["RobertaModel"],
        "model_type": "roberta",
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
    },
}


def write_decoder(folder: Path, kind: str, **changes: Any) -> Path:
    """A decoder checkpoint of `kind` in `folder`; `changes` go into its config."""
    config = {**DECODER_CONFIGS[kind], **changes}
    generation = {"eos_token_id": [END_ID, EXTRA_END_ID], "bos_token_id": BOS_ID}
    return _write(folder, config, _decoder_tensors(config, kind), generation)


def write_encoder(folder: Path, kind: str, pooling: str = "mean", normalize: bool = True) -> Path:
    """An encoder checkpoint with sentence-transformers' pooling files."""
    config = dict(ENCODER_CONFIGS[kind])
    _write(folder, config, _encoder_tensors(config, kind), None)
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    if normalize:
        modules.append(("2", "2_Normalize", "Normalize"))
    listed = [
        {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{t}"}
        for name, path, t in modules
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {
        "word_embedding_dimension": config["hidden_size"],
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_lasttoken": pooling == "last",
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return folder


def write_safetensors(file: Path, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """float32 `tensors` in the safetensors format."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            stream.write(tensor.tobytes())


def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose first 256 ids are bytes, followed by named special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    extra = range(EXTRA_END_ID + 1, VOCAB_SIZE)
    tokenizer.add_special_tokens(
        ["<|bos|>", "<|end|>", "<|pad|>", "<|eot|>", *(f"<|extra_{i}|>" for i in extra)]
    )
    return tokenizer


def _write(
    folder: Path,
    config: dict[str, Any],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    generation: dict[str, Any] | None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


class _Maker:
    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: dict[str, np.ndarray[Any, Any]] = {}

    def matrix(self, name: str, *shape: int, std: float = 0.0) -> None:
        spread = std or shape[-1] ** -0.5
        self.tensors[name] = (self.random.standard_normal(shape) * spread).astype(np.float32)

    def norm(self, name: str, size: int) -> None:
        self.tensors[name] = (1 + 0.1 * self.random.standard_normal(size)).astype(np.float32)


def _decoder_tensors(config: dict[str, Any], kind: str) -> dict[str, np.ndarray[Any, Any]]:
    make = _Maker(sum(kind.encode()))
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    # A small embedding lets the layers decide: with a large one a tied head repeats its input.
    make.matrix("model.embed_tokens.weight", config["vocab_size"], hidden, std=0.1)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, out in (("q", q), ("k", kv), ("v", kv)):
            make.matrix(f"{prefix}self_attn.{name}_proj.weight", out, hidden, std=0.3)
            if kind == "qwen2":
                make.matrix(f"{prefix}self_attn.{name}_proj.bias", out, std=0.5)
        make.matrix(f"{prefix}self_attn.o_proj.weight", hidden, q)
        if kind == "qwen3":
            make.norm(f"{prefix}self_attn.q_norm.weight", head)
            make.norm(f"{prefix}self_attn.k_norm.weight", head)
        make.matrix(f"{prefix}mlp.gate_proj.weight", wide, hidden)
        make.matrix(f"{prefix}mlp.up_proj.weight", wide, hidden)
        make.matrix(f"{prefix}mlp.down_proj.weight", hidden, wide)
        make.norm(f"{prefix}input_layernorm.weight", hidden)
        make.norm(f"{prefix}post_attention_layernorm.weight", hidden)
    make.norm("model.norm.weight", hidden)
    if not config["tie_word_embeddings"]:
        make.matrix("lm_head.weight", config["vocab_size"], hidden, std=0.5)
    return make.tensors


def _encoder_tensors(config: dict[str, Any], kind: str) -> dict[str, np.ndarray[Any, Any]]:
    make = _Maker(sum(kind.encode()))
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    make.matrix("embeddings.word_embeddings.weight", config["vocab_size"], hidden, std=1.0)
    rows = config["max_position_embeddings"]
    make.matrix("embeddings.position_embeddings.weight", rows, hidden, std=0.5)
    types = config["type_vocab_size"]
    make.matrix("embeddings.token_type_embeddings.weight", types, hidden, std=0.5)
    _layer_norm(make, "embeddings.LayerNorm", hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}."
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            _biased(make, f"{prefix}attention.{name}", hidden, hidden)
        _layer_norm(make, f"{prefix}attention.output.LayerNorm", hidden)
        _biased(make, f"{prefix}intermediate.dense", wide, hidden)
        _biased(make, f"{prefix}output.dense", hidden, wide)
        _layer_norm(make, f"{prefix}output.LayerNorm", hidden)
    return make.tensors


def _biased(make: _Maker, name: str, out: int, into: int) -> None:
    make.matrix(f"{name}.weight", out, into)
    make.matrix(f"{name}.bias", out, std=0.2)


def _layer_norm(make: _Maker, name: str, size: int) -> None:
    make.norm(f"{name}.weight", size)
    make.matrix(f"{name}.bias", size, std=0.1)
