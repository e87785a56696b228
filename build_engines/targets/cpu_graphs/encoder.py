"""BERT-like encoders as OpenVINO graphs that end in one vector per text."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops

from build_engines.checkpoint.files import Weights
from build_engines.checkpoint.pooling import Pooling
from build_engines.targets.cpu_graphs.architecture import EncoderShape
from build_engines.targets.cpu_graphs.ops import (
    Linear,
    WeightFormat,
    constant,
    layer_norm,
    reshape,
    transpose,
)


def build_encoder(
    shape: EncoderShape, weights: Weights, fmt: WeightFormat, pooling: Pooling, normalize: bool
) -> ov.Model:
    """Builds a model: input_ids, attention_mask, token_type_ids int32[b, n] → embedding float32[b,
    h].

    Texts are padded on the right. Raises: CheckpointError.
    """
    weights.strip(shape.prefixes, "embeddings.word_embeddings.weight")
    return _Encoder(shape, weights, fmt).build(pooling, normalize)


class _Encoder:
    def __init__(self, shape: EncoderShape, weights: Weights, fmt: WeightFormat) -> None:
        self._shape = shape
        self._weights = weights
        self._fmt = fmt
        self._inputs = {
            name: _parameter(name) for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        self._mask = ops.convert(self._inputs["attention_mask"], np.float32)
        far = ops.multiply(ops.subtract(self._mask, constant(1.0)), constant(3e38))
        self._additive_mask = ops.unsqueeze(far, constant([1, 2], np.int64))

    def build(self, pooling: Pooling, normalize: bool) -> ov.Model:
        x = self._embeddings()
        for layer in range(self._shape.num_layers):
            x = self._layer(x, f"encoder.layer.{layer}.")
        pooled = self._pooled(x, pooling)
        if normalize:
            # The lower bound of torch.nn.functional.normalize.
            norm = ops.sqrt(ops.reduce_sum(ops.power(pooled, constant(2.0)), _axis(1), True))
            pooled = ops.divide(pooled, ops.maximum(norm, constant(1e-12)))
        result = ops.result(pooled)
        result.get_output_tensor(0).set_names({"embedding"})
        return ov.Model([result], list(self._inputs.values()), "encoder")

    def _embeddings(self) -> Any:
        shape = self._shape
        words = self._table("word_embeddings", shape.vocab_size).rows(self._inputs["input_ids"])
        types = self._table("token_type_embeddings", shape.type_vocab_size)
        length = ops.gather(
            ops.shape_of(self._inputs["input_ids"]), constant(1, np.int64), constant(0, np.int64)
        )
        first = constant(shape.position_offset, np.int64)
        ids = ops.range(first, ops.add(first, length), constant(1, np.int64), output_type="i64")
        positions = self._table("position_embeddings", shape.position_rows).rows(ids)
        x = ops.add(ops.add(words, types.rows(self._inputs["token_type_ids"])), positions)
        return self._norm(x, "embeddings.LayerNorm")

    def _layer(self, x: Any, prefix: str) -> Any:
        shape = self._shape
        attended = self._attention(x, prefix + "attention.")
        x = self._norm(ops.add(x, attended), prefix + "attention.output.LayerNorm")
        wide = self._linear(x, prefix + "intermediate.dense", shape.intermediate_size)
        narrow = self._linear(self._activation(wide), prefix + "output.dense", shape.hidden_size)
        return self._norm(ops.add(x, narrow), prefix + "output.LayerNorm")

    def _attention(self, x: Any, prefix: str) -> Any:
        heads, hidden = self._shape.num_heads, self._shape.hidden_size
        q, k, v = (
            transpose(
                reshape(self._linear(x, f"{prefix}self.{name}", hidden), 0, 0, heads, -1),
                *(0, 2, 1, 3),
            )
            for name in ("query", "key", "value")
        )
        context = ops.scaled_dot_product_attention(q, k, v, self._additive_mask)
        merged = reshape(transpose(context, 0, 2, 1, 3), 0, 0, hidden)
        return self._linear(merged, prefix + "output.dense", hidden)

    def _activation(self, x: Any) -> Any:
        if self._shape.activation == "relu":
            return ops.relu(x)
        return ops.gelu(x, "erf" if self._shape.activation == "gelu" else "tanh")

    def _pooled(self, x: Any, pooling: Pooling) -> Any:
        if pooling == "cls":
            return ops.gather(x, constant(0, np.int64), constant(1, np.int64))
        if pooling == "last":
            return self._last(x)
        mask = ops.unsqueeze(self._mask, _axis(2))
        total = ops.reduce_sum(ops.multiply(x, mask), _axis(1), False)
        return ops.divide(total, ops.reduce_sum(mask, _axis(1), False))

    def _last(self, x: Any) -> Any:
        """Returns the state of each text's last token; texts are padded on the right."""
        counts = ops.reduce_sum(self._mask, _axis(1), False)
        last = ops.convert(ops.subtract(counts, constant(1.0)), np.int64)
        return ops.gather(x, last, constant(1, np.int64), batch_dims=1)

    def _linear(self, x: Any, name: str, out: int) -> Any:
        into = int(x.get_output_partial_shape(0)[2].get_length())
        weight = Linear(self._weights.load(name + ".weight", out, into), self._fmt)
        return weight.matmul(x, self._weights.load(name + ".bias", out))

    def _table(self, name: str, rows: int) -> Linear:
        weight = self._weights.load(f"embeddings.{name}.weight", rows, self._shape.hidden_size)
        return Linear(weight, self._fmt)

    def _norm(self, x: Any, name: str) -> Any:
        hidden = self._shape.hidden_size
        weight = self._weights.load(name + ".weight", hidden)
        bias = self._weights.load(name + ".bias", hidden)
        return layer_norm(x, weight, bias, self._shape.norm_eps)


def _axis(axis: int) -> Any:
    return constant([axis], np.int64)


def _parameter(name: str) -> Any:
    node = ops.parameter([-1, -1], np.int32)
    node.set_friendly_name(name)
    node.get_output_tensor(0).set_names({name})
    return node
