"""Llama-like decoders as OpenVINO graphs with key/value state."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops
from openvino.op.util import Variable, VariableInfo

from build_engines.checkpoint.files import CheckpointError, Weights
from build_engines.cpu.runtime import FINAL_NORM
from build_engines.targets.cpu_graphs.architecture import DecoderShape
from build_engines.targets.cpu_graphs.ops import (
    Linear,
    WeightFormat,
    constant,
    reshape,
    rms_norm,
    transpose,
)

#: Name of the node whose output feeds the vocabulary projection.


def build_decoder(
    shape: DecoderShape, weights: Weights, max_len: int, fmt: WeightFormat
) -> ov.Model:
    """Builds a stateful model: input_ids, attention_mask, position_ids, beam_idx → logits.

    Keys and values are in ReadValue/Assign pairs, the form that OpenVINO's paged-attention
    transformation recognises. Raises: CheckpointError.
    """
    weights.strip(("model.", ""), "embed_tokens.weight")
    graph = _Decoder(shape, weights, max_len, fmt)
    return graph.build()


class _Decoder:
    def __init__(
        self, shape: DecoderShape, weights: Weights, max_len: int, fmt: WeightFormat
    ) -> None:
        self._shape = shape
        self._weights = weights
        self._fmt = fmt
        self._assigns: list[Any] = []
        self._input_ids = _parameter("input_ids", [-1, -1])
        self._attention_mask = _parameter("attention_mask", [-1, -1])
        self._position_ids = _parameter("position_ids", [-1, -1])
        self._beam_idx = _parameter("beam_idx", [-1], np.int32)
        angles = np.outer(np.arange(max_len, dtype=np.float64), shape.inv_freq)
        angles = np.concatenate([angles, angles], axis=1)
        self._cos = self._position_rows(np.cos(angles))
        self._sin = self._position_rows(np.sin(angles))
        self._mask = self._additive_mask()

    def build(self) -> ov.Model:
        shape = self._shape
        table = self._weights.load("embed_tokens.weight", shape.vocab_size, shape.hidden_size)
        embedding = Linear(table, self._fmt)
        x = embedding.rows(self._input_ids)
        for layer in range(shape.num_layers):
            x = self._layer(x, layer)
        norm = self._weights.load("norm.weight", shape.hidden_size)
        x = rms_norm(x, norm, shape.norm_eps)
        x.set_friendly_name(FINAL_NORM)
        logits = self._head(embedding).matmul(x)
        logits.set_friendly_name("logits")
        result = ops.result(logits)
        result.get_output_tensor(0).set_names({"logits"})
        parameters = [self._input_ids, self._attention_mask, self._position_ids, self._beam_idx]
        return ov.Model([result], self._assigns, parameters, "decoder")

    def _head(self, embedding: Linear) -> Linear:
        shape = self._shape
        if shape.tied:
            return embedding
        if "lm_head.weight" not in set(self._weights):
            raise CheckpointError("tensor `lm_head.weight` is missing and the head is not tied")
        weight = self._weights.load("lm_head.weight", shape.vocab_size, shape.hidden_size)
        return Linear(weight, self._fmt)

    def _layer(self, x: Any, layer: int) -> Any:
        shape, prefix = self._shape, f"layers.{layer}."
        norm = self._weights.load(prefix + "input_layernorm.weight", shape.hidden_size)
        x = ops.add(x, self._attention(rms_norm(x, norm, shape.norm_eps), layer))
        norm = self._weights.load(prefix + "post_attention_layernorm.weight", shape.hidden_size)
        return ops.add(x, self._mlp(rms_norm(x, norm, shape.norm_eps), prefix + "mlp."))

    def _mlp(self, x: Any, prefix: str) -> Any:
        wide, narrow = self._shape.intermediate_size, self._shape.hidden_size
        names = ("gate_proj", "up_proj")
        gate, up = self._projected(x, [(prefix + n, wide) for n in names], self._shape.mlp_bias)
        product = ops.multiply(ops.swish(gate), up)
        return self._project(product, prefix + "down_proj", narrow, wide, self._shape.mlp_bias)

    def _attention(self, x: Any, layer: int) -> Any:
        shape, prefix = self._shape, f"layers.{layer}.self_attn."
        input_bias, output_bias = shape.attention_bias
        width = shape.num_heads * shape.head_dim
        kv_width = shape.num_kv_heads * shape.head_dim
        parts = [("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width)]
        q, k, v = self._projected(x, [(prefix + n, size) for n, size in parts], input_bias)
        q = self._heads(q, shape.num_heads, prefix + "q_norm.weight")
        k = self._heads(k, shape.num_kv_heads, prefix + "k_norm.weight")
        v = transpose(reshape(v, 0, 0, shape.num_kv_heads, shape.head_dim), 0, 2, 1, 3)
        k = self._repeated(self._remembered(self._rotated(k), f"key.{layer}"))
        v = self._repeated(self._remembered(v, f"value.{layer}"))
        scale = constant(shape.head_dim**-0.5)
        context = ops.scaled_dot_product_attention(self._rotated(q), k, v, self._mask, scale)
        merged = reshape(transpose(context, 0, 2, 1, 3), 0, 0, width)
        return self._project(merged, prefix + "o_proj", shape.hidden_size, width, output_bias)

    def _project(self, x: Any, name: str, out: int, into: int, bias: bool) -> Any:
        linear = Linear(self._weights.load(name + ".weight", out, into), self._fmt)
        return linear.matmul(x, self._weights.load(name + ".bias", out) if bias else None)

    def _projected(self, x: Any, parts: list[tuple[str, int]], bias: bool) -> list[Any]:
        """Computes several projections of `x` as one product: half the calls, same arithmetic."""
        into = self._shape.hidden_size
        weight = [self._weights.load(f"{name}.weight", out, into) for name, out in parts]
        product = Linear(np.concatenate(weight), self._fmt).matmul(
            x,
            np.concatenate([self._weights.load(f"{name}.bias", out) for name, out in parts])
            if bias
            else None,
        )
        sizes = constant([out for _, out in parts], np.int64)
        return list(ops.variadic_split(product, constant(2, np.int64), sizes).outputs())

    def _heads(self, x: Any, count: int, norm_name: str) -> Any:
        x = reshape(x, 0, 0, count, self._shape.head_dim)
        if self._shape.qk_norm:
            norm = self._weights.load(norm_name, self._shape.head_dim)
            x = rms_norm(x, norm, self._shape.norm_eps)
        return transpose(x, 0, 2, 1, 3)

    def _rotated(self, x: Any) -> Any:
        """Applies rotary embedding to [batch, heads, tokens, head_dim], halves convention."""
        half = self._shape.head_dim // 2
        axis, step = constant([3], np.int64), constant([1], np.int64)
        begin, middle = constant([0], np.int64), constant([half], np.int64)
        end = constant([np.iinfo(np.int64).max], np.int64)
        first = ops.slice(x, begin, middle, step, axis)
        second = ops.slice(x, middle, end, step, axis)
        turned = ops.concat([ops.multiply(second, constant(-1.0)), first], axis=-1)
        return ops.add(ops.multiply(x, self._cos), ops.multiply(turned, self._sin))

    def _remembered(self, x: Any, name: str) -> Any:
        """Appends `x` to the state `name` and returns both."""
        shape = self._shape
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, shape.num_kv_heads, -1, shape.head_dim])
        info.data_type = ov.Type.f32
        info.variable_id = name
        variable = Variable(info)
        batch = ops.gather(
            ops.shape_of(self._input_ids), constant([0], np.int64), constant(0, np.int64)
        )
        rest = constant([shape.num_kv_heads, 0, shape.head_dim], np.int64)
        empty = ops.broadcast(constant(0.0), ops.concat([batch, rest], axis=0))
        past = ops.gather(ops.read_value(empty, variable), self._beam_idx, constant(0, np.int64))
        present = ops.concat([past, x], axis=2)
        self._assigns.append(ops.assign(present, variable))
        return present

    def _repeated(self, x: Any) -> Any:
        """Repeats key/value heads for groups of query heads: [b, kv, t, d] → [b, heads, t, d]."""
        shape = self._shape
        groups = shape.num_heads // shape.num_kv_heads
        if groups == 1:
            return x
        wide = ops.unsqueeze(x, constant(2, np.int64))
        target = constant([1, 1, groups, 1, 1], np.int64)
        wide = ops.broadcast(wide, target, broadcast_spec="BIDIRECTIONAL")
        return reshape(wide, 0, shape.num_heads, -1, shape.head_dim)

    def _position_rows(self, table: Any) -> Any:
        rows = ops.gather(constant(table), self._position_ids, constant(0, np.int64))
        return ops.unsqueeze(rows, constant(1, np.int64))

    def _additive_mask(self) -> Any:
        """Returns a causal mask over the whole sequence; the paged form replaces it by its own."""
        total = ops.gather(
            ops.shape_of(self._attention_mask), constant(1, np.int64), constant(0, np.int64)
        )
        keys = ops.range(constant(0, np.int64), total, constant(1, np.int64), output_type="i64")
        visible = ops.less_equal(keys, ops.unsqueeze(self._position_ids, constant(2, np.int64)))
        mask = ops.select(visible, constant(0.0), constant(np.finfo(np.float32).min))
        return ops.unsqueeze(mask, constant(1, np.int64))


def _parameter(name: str, shape: list[int], dtype: Any = np.int64) -> Any:
    node = ops.parameter(shape, dtype)
    # The paged-attention transformation finds parameters by their friendly name.
    node.set_friendly_name(name)
    node.get_output_tensor(0).set_names({name})
    return node
