"""A start in life: weights under which the untrained model already copies.

A small model needs many tokens to find out how to copy, and then does so suddenly. The circuit is
well known: a head of the first layer writes beside every token the one before it, and a head of
the second layer looks for the place whose earlier token is the current one and repeats what stands
there. Here it is written down by hand; training keeps, sharpens and generalises it.
Source: Olsson et al., In-context Learning and Induction Heads, 2022.
"""

import torch
from torch import Tensor

from .llama import Attention, Llama, LlamaShape, angles

_CONSTANT = 9.0
_EARLIER_SHARPNESS = 0.95
_FAST_TURNS = 3
_SLOW_TURN = 6
_EARLIER_SCALE = 0.04
_MATCH_SCALE = 1.6
_COPY_SCALE = 0.03


def wire_copying(model: Llama) -> None:
    """Writes the copying circuit into the first two layers of a freshly made model."""
    with torch.no_grad():
        _wire(model)


def _wire(model: Llama) -> None:
    shape = model.shape
    noise = model.model.embed_tokens.weight
    noise[:, 0] = _CONSTANT * noise[:, 1:].std()
    width, head = shape.width, shape.head_width
    basis = _orthogonal(width - 1)
    basis = torch.cat((torch.zeros(width - 1, 1), basis), dim=1)
    read, write = basis[: 2 * head], basis[width - 1 - 2 * head :]
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    _wire_earlier(first, read, write)
    _wire_match(second, read, write)


def _wire_earlier(attention: Attention, read: Tensor, write: Tensor) -> None:
    """Heads that look one place back and note, in the `write` space, the token found there."""
    shape = attention.shape
    head, groups = shape.head_width, shape.heads // shape.key_value_heads
    wave = torch.zeros(head)
    wave[:_FAST_TURNS] = _EARLIER_SHARPNESS
    back = _turned(wave, shape)
    for number in range(2):
        keys = slice(number * head, (number + 1) * head)
        attention.k_proj.weight[keys] = 0
        attention.k_proj.weight[keys, 0] = wave
        attention.v_proj.weight[keys] = read[keys]
        for member in range(groups):
            one = number * groups + member
            queries = slice(one * head, (one + 1) * head)
            attention.q_proj.weight[queries] = 0
            attention.q_proj.weight[queries, 0] = back
            attention.o_proj.weight[:, queries] = _EARLIER_SCALE / groups * write[keys].T


def _wire_match(attention: Attention, read: Tensor, write: Tensor) -> None:
    """Heads that find the place after an earlier copy of this token and repeat its token."""
    shape = attention.shape
    head, groups = shape.head_width, shape.heads // shape.key_value_heads
    half = head // 2
    slow = [*range(_SLOW_TURN, half), *range(half + _SLOW_TURN, head)]
    copied = _orthogonal(shape.width - 1)[: shape.key_value_heads * head]
    copied = torch.cat((torch.zeros(len(copied), 1), copied), dim=1)
    for number in range(shape.key_value_heads):
        keys = slice(number * head, (number + 1) * head)
        chosen = torch.randperm(len(read))[: len(slow)]
        attention.k_proj.weight[keys] = 0
        attention.k_proj.weight[[number * head + i for i in slow]] = _MATCH_SCALE * write[chosen]
        attention.v_proj.weight[keys] = copied[keys]
        for member in range(groups):
            one = number * groups + member
            queries = slice(one * head, (one + 1) * head)
            attention.q_proj.weight[queries] = 0
            attention.q_proj.weight[[one * head + i for i in slow]] = _MATCH_SCALE * read[chosen]
            attention.o_proj.weight[:, queries] = _COPY_SCALE / groups * copied[keys].T


def _turned(wave: Tensor, shape: LlamaShape) -> Tensor:
    """The wave as the rotation of one place backwards leaves it."""
    cosine, sine = angles(shape, 2, wave.device)
    half = len(wave) // 2
    other = torch.cat((-wave[half:], wave[:half]))
    turned: Tensor = wave * cosine[1] - other * sine[1]
    return turned


def _orthogonal(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size))[0]
