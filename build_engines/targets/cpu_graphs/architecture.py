"""Reads and checks the network of `config.json`: decoders and encoders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engines.checkpoint.files import CheckpointError

DECODERS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_BERT = ("BertModel", "BertForMaskedLM")
_ROBERTA = ("RobertaModel", "RobertaForMaskedLM", "XLMRobertaModel", "XLMRobertaForMaskedLM")
ENCODERS = (*_BERT, *_ROBERTA)


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """A llama-like decoder. `attention_bias` is (query/key/value, output)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    max_positions: int
    attention_bias: tuple[bool, bool]
    mlp_bias: bool
    qk_norm: bool
    tied: bool
    inv_freq: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """A BERT-like encoder. `position_offset` is the id of the first position (RoBERTa: pad + 1)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    norm_eps: float
    type_vocab_size: int
    position_rows: int
    position_offset: int
    activation: str
    prefixes: tuple[str, ...]

    @property
    def max_positions(self) -> int:
        """The longest input in tokens."""
        return self.position_rows - self.position_offset


def decoder_shape(architecture: str, config: Mapping[str, Any], max_len: int) -> DecoderShape:
    """Returns the decoder of `config`, for up to `max_len` tokens. Raises: CheckpointError."""
    if architecture not in DECODERS:
        raise CheckpointError(
            f"architecture `{architecture}` is unsupported; known: {', '.join(DECODERS)}"
        )
    _refuse_window(architecture, config, max_len)
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise CheckpointError(f"`hidden_act` is `{activation}`, only `silu` is supported")
    heads = _positive(config, "num_attention_heads")
    hidden = _positive(config, "hidden_size")
    head_dim = int(config.get("head_dim") or hidden // heads)
    bias = bool(config.get("attention_bias", False))
    shape = DecoderShape(
        vocab_size=_positive(config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_positive(config, "intermediate_size"),
        num_layers=_positive(config, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        max_positions=_positive(config, "max_position_embeddings"),
        attention_bias=(True, False) if architecture.startswith("Qwen2") else (bias, bias),
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=architecture.startswith("Qwen3"),
        tied=bool(config.get("tie_word_embeddings", False)),
        inv_freq=inverse_frequencies(config, head_dim),
    )
    if shape.num_heads % shape.num_kv_heads:
        raise CheckpointError(
            f"`num_attention_heads` {heads} is no multiple of "
            f"`num_key_value_heads` {shape.num_kv_heads}"
        )
    return shape


def encoder_shape(architecture: str, config: Mapping[str, Any]) -> EncoderShape:
    """Returns the encoder of `config`. Raises: CheckpointError."""
    if architecture not in ENCODERS:
        raise CheckpointError(
            f"architecture `{architecture}` is unsupported; known: {', '.join(ENCODERS)}"
        )
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise CheckpointError(
            f"`position_embedding_type` is `{kind}`, only `absolute` is supported"
        )
    activation = config.get("hidden_act", "gelu")
    if activation not in ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu"):
        raise CheckpointError(f"`hidden_act` is `{activation}`, supported: gelu, gelu_new, relu")
    roberta = architecture in _ROBERTA
    return EncoderShape(
        vocab_size=_positive(config, "vocab_size"),
        hidden_size=_positive(config, "hidden_size"),
        intermediate_size=_positive(config, "intermediate_size"),
        num_layers=_positive(config, "num_hidden_layers"),
        num_heads=_positive(config, "num_attention_heads"),
        norm_eps=float(config.get("layer_norm_eps", 1e-12)),
        type_vocab_size=_positive(config, "type_vocab_size"),
        position_rows=_positive(config, "max_position_embeddings"),
        # Source: transformers, create_position_ids_from_input_ids.
        position_offset=int(config.get("pad_token_id") or 0) + 1 if roberta else 0,
        activation=activation,
        prefixes=("", "roberta.") if roberta else ("", "bert."),
    )


def inverse_frequencies(config: Mapping[str, Any], head_dim: int) -> npt.NDArray[np.float64]:
    """Returns rotary frequencies float64[head_dim / 2]. Source: transformers,
    modeling_rope_utils.
    """
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    part = float(rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)
    if part != 1.0:
        raise CheckpointError(f"`partial_rotary_factor` is {part:g}, only 1 is supported")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / float(rope["factor"])
    if kind == "llama3":
        return _llama3(frequencies, rope)
    raise CheckpointError(f"rope scaling `{kind}` is unsupported; known: default, linear, llama3")


def _llama3(
    frequencies: npt.NDArray[np.float64], rope: Mapping[str, Any]
) -> npt.NDArray[np.float64]:
    """Stretches long waves by `factor`, keeps short ones, and interpolates those between."""
    factor = float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * frequencies / factor + smooth * frequencies


def _refuse_window(architecture: str, config: Mapping[str, Any], max_len: int) -> None:
    window = config.get("sliding_window")
    if architecture.startswith("Qwen") and not config.get("use_sliding_window", False):
        return
    if window is not None and int(window) < max_len:
        raise CheckpointError(
            f"`sliding_window` of {window} tokens is unsupported; "
            f"set `context_tokens` (now {max_len}) to at most {window}"
        )


def _positive(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json: `{key}` is {value!r}, must be a whole number >= 1")
    return value
