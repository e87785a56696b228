"""A BERT encoder for training, with the tensor names of a Hugging Face checkpoint."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class BertShape:
    """The sizes that `config.json` states."""

    vocabulary: int = 4096
    width: int = 128
    layers: int = 3
    heads: int = 4
    hidden: int = 512
    context_tokens: int = 256
    epsilon: float = 1e-12

    def config(self, pad_id: int) -> dict[str, Any]:
        """The `config.json` of a Hugging Face checkpoint of this shape."""
        return {
            "architectures": ["BertModel"],
            "attention_probs_dropout_prob": 0.0,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": self.width,
            "initializer_range": 0.02,
            "intermediate_size": self.hidden,
            "layer_norm_eps": self.epsilon,
            "max_position_embeddings": self.context_tokens,
            "model_type": "bert",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "pad_token_id": pad_id,
            "position_embedding_type": "absolute",
            "torch_dtype": "float16",
            "type_vocab_size": 2,
            "vocab_size": self.vocabulary,
        }


class Embeddings(nn.Module):  # type: ignore[misc]  # checked without torch
    """Words, places and segments, summed."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocabulary, shape.width)
        self.position_embeddings = nn.Embedding(shape.context_tokens, shape.width)
        self.token_type_embeddings = nn.Embedding(2, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, shape.epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        """States float[rows, length, width] before the first layer."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.word_embeddings(ids) + self.position_embeddings(places)
        out: Tensor = self.LayerNorm(x + self.token_type_embeddings.weight[0])
        return out


class Layer(nn.Module):  # type: ignore[misc]  # checked without torch
    """One post-norm encoder layer."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.heads = shape.heads
        width = shape.width
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict(
                    {name: nn.Linear(width, width) for name in ("query", "key", "value")}
                ),
                "output": nn.ModuleDict(
                    {
                        "dense": nn.Linear(width, width),
                        "LayerNorm": nn.LayerNorm(width, shape.epsilon),
                    }
                ),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, shape.hidden)})
        self.output = nn.ModuleDict(
            {
                "dense": nn.Linear(shape.hidden, width),
                "LayerNorm": nn.LayerNorm(width, shape.epsilon),
            }
        )

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """The states after this layer; places that are not `present` are not looked at."""
        rows, length, width = x.shape
        split = (rows, length, self.heads, width // self.heads)
        projections: Any = self.attention["self"]
        query, key, value = (
            projections[name](x).view(split).transpose(1, 2) for name in ("query", "key", "value")
        )
        mask = present[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = mixed.transpose(1, 2).reshape(rows, length, width)
        attended: Any = self.attention["output"]
        x = attended["LayerNorm"](x + attended["dense"](mixed))
        inner = functional.gelu(self.intermediate["dense"](x))
        out: Tensor = self.output["LayerNorm"](x + self.output["dense"](inner))
        return out


class Bert(nn.Module):  # type: ignore[misc]  # checked without torch
    """A sentence encoder: the mean of the last states, of length one."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = Embeddings(shape)
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(Layer(shape) for _ in range(shape.layers))}
        )
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02 if "embeddings" in name else 0.05)

    def forward(self, ids: Tensor, present: Tensor) -> Tensor:
        """Unit vectors float[rows, width] of int64[rows, length] and bool[rows, length]."""
        x = self.embeddings(ids)
        layers: Any = self.encoder["layer"]
        for layer in layers:
            x = layer(x, present)
        weights = present[..., None].to(x.dtype)
        mean = (x * weights).sum(1) / weights.sum(1)
        return functional.normalize(mean.float(), dim=-1)
