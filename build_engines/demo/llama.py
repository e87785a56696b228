"""A Llama decoder for training, with the tensor names of a Hugging Face checkpoint."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The sizes that `config.json` states."""

    vocabulary: int = 1536
    width: int = 256
    layers: int = 5
    heads: int = 8
    key_value_heads: int = 4
    head_width: int = 32
    hidden: int = 704
    rope_theta: float = 100000.0
    epsilon: float = 1e-5
    context_tokens: int = 2048

    def config(self, begin_id: int, end_id: int, pad_id: int) -> dict[str, Any]:
        """The `config.json` of a Hugging Face checkpoint of this shape."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": begin_id,
            "eos_token_id": end_id,
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "hidden_size": self.width,
            "initializer_range": 0.02,
            "intermediate_size": self.hidden,
            "max_position_embeddings": self.context_tokens,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_value_heads,
            "pad_token_id": pad_id,
            "pretraining_tp": 1,
            "rms_norm_eps": self.epsilon,
            "rope_scaling": None,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            "use_cache": True,
            "vocab_size": self.vocabulary,
        }


class Attention(nn.Module):  # type: ignore[misc]  # checked without torch
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        queries = shape.heads * shape.head_width
        keys = shape.key_value_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, queries, bias=False)
        self.k_proj = nn.Linear(shape.width, keys, bias=False)
        self.v_proj = nn.Linear(shape.width, keys, bias=False)
        self.o_proj = nn.Linear(queries, shape.width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """What every place gathers from itself and those before it."""
        rows, length, _ = x.shape
        split = (rows, length, -1, self.shape.head_width)
        query = rotate(self.q_proj(x).view(split).transpose(1, 2), cosine, sine)
        key = rotate(self.k_proj(x).view(split).transpose(1, 2), cosine, sine)
        value = self.v_proj(x).view(split).transpose(1, 2)
        groups = self.shape.heads // self.shape.key_value_heads
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(rows, length, -1)
        out: Tensor = self.o_proj(mixed)
        return out


class Mlp(nn.Module):  # type: ignore[misc]  # checked without torch
    """The gated feed-forward part."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What every place computes from itself alone."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):  # type: ignore[misc]  # checked without torch
    """One pre-norm decoder layer."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = Mlp(shape)
        self.input_layernorm = nn.RMSNorm(shape.width, shape.epsilon)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, shape.epsilon)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """The states after this layer."""
        x = x + self.self_attn(self.input_layernorm(x), cosine, sine)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):  # type: ignore[misc]  # checked without torch
    """Embeddings, layers and the last norm: the `model.` part of the checkpoint."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, shape.epsilon)


class Llama(nn.Module):  # type: ignore[misc]  # checked without torch
    """A causal language model whose output layer is its embedding."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        scale = 0.02 / math.sqrt(2 * shape.layers)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                output = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=scale if output else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits float[rows, length, vocabulary] of int64[rows, length]; padding goes right."""
        x = self.model.embed_tokens(ids)
        cosine, sine = angles(self.shape, ids.shape[1], x.device)
        for layer in self.model.layers:
            x = layer(x, cosine, sine)
        return functional.linear(self.model.norm(x), self.model.embed_tokens.weight)


def angles(shape: LlamaShape, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines float[length, head_width] of the rotary positions."""
    half = torch.arange(0, shape.head_width, 2, device=device) / shape.head_width
    frequency = 1.0 / shape.rope_theta**half
    angle = torch.outer(torch.arange(length, device=device).float(), frequency)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Queries or keys turned by their positions; the halves of a head are paired."""
    left, right = x.chunk(2, dim=-1)
    turned = torch.cat((-right, left), dim=-1)
    return x * cosine.to(x.dtype) + turned * sine.to(x.dtype)
