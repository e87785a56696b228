"""The size and shape of a checkpoint's network, to plan memory; its values are not read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from build_engines.checkpoint.files import Checkpoint, CheckpointError

#: Matrices that stay in the compute type when the others are quantised.
_NOT_QUANTISED = ("embed", "lm_head", "norm", "position", "wte", "wpe", "router", "pooler")


@dataclass(frozen=True, slots=True)
class Network:
    """The shape of a network. `windows` is the attention window of each layer, 0 for all tokens.

    `linear_values` counts the weights that quantisation shrinks, `other_values` the rest.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    windows: tuple[int, ...]
    linear_values: int
    other_values: int

    @property
    def values(self) -> int:
        """The number of all weights."""
        return self.linear_values + self.other_values

    def cached_values(self, tokens: int, tensor_parallel: int = 1) -> int:
        """Returns the number of cached values of one sequence of `tokens` on one of the GPUs.

        A GPU holds at least one head, so with fewer heads than GPUs some are held more than once.
        """
        heads = max(1, -(-self.num_kv_heads // tensor_parallel))
        held = sum(min(tokens, window) if window else tokens for window in self.windows)
        return 2 * heads * self.head_dim * held


def read_network(checkpoint: Checkpoint) -> Network:
    """Reads the network of `checkpoint`. Raises: CheckpointError."""
    config = text_config(checkpoint.config)
    linear, other = _count(checkpoint)
    heads = _number(config, "num_attention_heads", "encoder_attention_heads")
    hidden = _number(config, "hidden_size", "d_model")
    layers = _number(config, "num_hidden_layers", "encoder_layers")
    return Network(
        hidden_size=hidden,
        intermediate_size=_number(config, "intermediate_size", "encoder_ffn_dim"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        vocab_size=_number(config, "vocab_size"),
        max_positions=_positions(config),
        windows=_windows(config, checkpoint.architecture, layers),
        linear_values=linear,
        other_values=other,
    )


def position_offset(checkpoint: Checkpoint) -> int:
    """Returns the id of the first position in a RoBERTa model.

    Source: transformers, create_position_ids_from_input_ids.
    """
    return int(checkpoint.config.get("pad_token_id") or 0) + 1


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the configuration of the language model in a multimodal checkpoint."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def _positions(config: Mapping[str, Any]) -> int:
    """Returns the longest context, including YaRN's extension."""
    positions = _number(config, "max_position_embeddings", "max_target_positions")
    rope = config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) != "yarn":
        return positions
    original = rope.get("original_max_position_embeddings") or positions
    return max(positions, int(original * float(rope.get("factor", 1.0))))


def _windows(config: Mapping[str, Any], architecture: str, layers: int) -> tuple[int, ...]:
    window = config.get("sliding_window")
    if not isinstance(window, int) or window < 1:
        return (0,) * layers
    if isinstance(kinds := config.get("layer_types"), list) and len(kinds) == layers:
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    if architecture.startswith("Qwen"):
        if not config.get("use_sliding_window", False):
            return (0,) * layers
        # The first layers have no window.
        full = int(config.get("max_window_layers", layers))
        return tuple(0 if layer < full else window for layer in range(layers))
    if architecture.startswith("Gemma2"):
        return tuple(0 if layer % 2 else window for layer in range(layers))
    if architecture.startswith("Gemma3"):
        pattern = int(config.get("sliding_window_pattern") or 6)
        return tuple(0 if (layer + 1) % pattern == 0 else window for layer in range(layers))
    return (window,) * layers


def _count(checkpoint: Checkpoint) -> tuple[int, int]:
    linear = other = 0
    for name, shape in checkpoint.weights().shapes().items():
        size = math.prod(shape)
        if len(shape) < 2 or any(part in name.lower() for part in _NOT_QUANTISED):
            other += size
        else:
            linear += size
    return linear, other


def _number(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value >= 1:
            return value
    value = config.get(names[0])
    raise CheckpointError(f"config.json: `{names[0]}` is {value!r}, must be a whole number >= 1")
