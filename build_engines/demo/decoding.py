"""Greedy generation with a key-value cache, for evaluation only."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .llama import Attention, Llama, angles, rotate


@dataclass(slots=True)
class _Cache:
    """Keys and values float[layers, rows, heads, places, head width], filled from the left."""

    keys: Tensor
    values: Tensor
    filled: int = 0


def generate(
    model: Llama, prompts: Sequence[Sequence[int]], end_ids: set[int], max_tokens: int
) -> list[list[int]]:
    """The most likely continuation of every prompt, without its end token."""
    with torch.inference_mode():
        return _generate(model, prompts, end_ids, max_tokens)


def _generate(
    model: Llama, prompts: Sequence[Sequence[int]], end_ids: set[int], max_tokens: int
) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    padding = torch.tensor([longest - len(one) for one in prompts])
    for i, one in enumerate(prompts):
        ids[i, longest - len(one) :] = torch.tensor(one)
    cache = _empty_cache(model, len(prompts), longest + max_tokens)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for _ in range(max_tokens):
        chosen = _advance(model, ids, padding, cache).argmax(-1)
        going = [i for i, one in enumerate(chosen.tolist()) if one not in end_ids]
        if not going:
            break
        if len(going) < len(rows):
            cache.keys, cache.values = cache.keys[:, going], cache.values[:, going]
            padding, chosen, rows = padding[going], chosen[going], [rows[i] for i in going]
        for row, one in zip(rows, chosen.tolist(), strict=True):
            answers[row].append(one)
        ids = chosen[:, None]
    return answers


def _empty_cache(model: Llama, rows: int, places: int) -> _Cache:
    shape = model.shape
    size = (shape.layers, rows, shape.key_value_heads, places, shape.head_width)
    return _Cache(torch.zeros(size), torch.zeros(size))


def _advance(model: Llama, ids: Tensor, padding: Tensor, cache: _Cache) -> Tensor:
    """Logits float[rows, vocabulary] after the last of the new ids."""
    shape, start, count = model.shape, cache.filled, ids.shape[1]
    cosine, sine = (one[start:] for one in angles(shape, start + count, ids.device))
    places = torch.arange(start + count)
    own = torch.arange(start, start + count)
    allowed = (places[None, :] <= own[:, None])[None] & (places >= padding[:, None])[:, None]
    allowed = allowed | (places[None, :] == own[:, None])[None]
    x = model.model.embed_tokens(ids)
    for number, layer in enumerate(model.model.layers):
        normed = layer.input_layernorm(x)
        x = x + _attend(layer.self_attn, normed, (cosine, sine), allowed, cache, number)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    cache.filled += count
    return functional.linear(model.model.norm(x[:, -1]), model.model.embed_tokens.weight)


def _attend(
    attention: Attention,
    x: Tensor,
    turn: tuple[Tensor, Tensor],
    allowed: Tensor,
    cache: _Cache,
    number: int,
) -> Tensor:
    rows, count, _ = x.shape
    shape, start = attention.shape, cache.filled
    split = (rows, count, -1, shape.head_width)
    query = rotate(attention.q_proj(x).view(split).transpose(1, 2), *turn)
    key = rotate(attention.k_proj(x).view(split).transpose(1, 2), *turn)
    cache.keys[number, :, :, start : start + count] = key
    cache.values[number, :, :, start : start + count] = (
        attention.v_proj(x).view(split).transpose(1, 2)
    )
    keys = cache.keys[number, :, :, : start + count]
    values = cache.values[number, :, :, : start + count]
    mixed = functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=allowed[:, None], enable_gqa=True
    )
    out: Tensor = attention.o_proj(mixed.transpose(1, 2).reshape(rows, count, -1))
    return out
