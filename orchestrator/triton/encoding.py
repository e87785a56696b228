"""The request that starts a generation, encoded as bytes of protobuf.

Nearly all of it is the same for every call of a model, so it is encoded once and cached; only
the ids, the lengths, the seed and the salt are inserted. Source: `inference.ModelInferRequest`
in Triton's `grpc_service.proto`, and protobuf's encoding.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from orchestrator.triton.contract import (
    CLOCKS,
    FINISH_REASON,
    LOG_PROBS,
    OUTPUT_IDS,
    REUSED_BLOCKS,
    SEQUENCE_LENGTH,
    TOP_IDS,
    TOP_LOG_PROBS,
    GenerateCall,
)

_MODEL_NAME, _ID, _INPUTS, _OUTPUTS, _RAW = 1, 3, 5, 6, 7
"""Fields of a `ModelInferRequest`."""
_NAME, _DATATYPE, _SHAPE = 1, 2, 3
"""Fields of an `InferInputTensor`; a requested output has only the first."""
_TAG_RAW = bytes((_RAW << 3 | 2,))
_RAW_4, _RAW_8 = _TAG_RAW + b"\x04", _TAG_RAW + b"\x08"
_lengths = struct.Struct("<2si2si")
_number = struct.Struct("<2sQ")
_fp32 = struct.Struct("<f")
_MAX_TEMPLATES = 256
_SEED_MASK = 0xFFFFFFFFFFFFFFFF
_SMALLEST_FP32 = 2.0**-126
"""The smallest normal number above 0. The engine divides by penalties."""


_Distribution: TypeAlias = tuple[float | None, float | None, int | None, float | None]
"""Temperature, top-p, top-k, min-p."""
_Penalties: TypeAlias = tuple[float | None, float | None, float | None]
"""Presence, frequency and repetition penalty."""
_Told: TypeAlias = tuple[bool, bool, int, bool]
"""Finish reason, log-probabilities, number of alternatives to each, clocks."""


class _Template(NamedTuple):
    """A request without its id, token ids, lengths, seed and salt."""

    head: bytes
    tensors: bytes
    """All tensors after `input_ids`, and the outputs."""
    contents: bytes
    """The contents of those tensors."""


def generate_request(call: GenerateCall, *, streaming: bool = True) -> bytes:
    """Returns the request that starts `call`, with one response per token or one for all."""
    sampling, token_ids = call.sampling, call.token_ids
    seed = sampling.seed if call.seed is None else call.seed
    head, tensors, contents = _template(
        call.model,
        call.end_id,
        call.pad_id,
        tuple(call.extra_end_ids),
        (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p),
        (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty),
        (
            call.reports_finish_reason,
            call.log_probs,
            call.top_log_probs,
            call.reports_perf_metrics,
        ),
        seed is not None,
        call.cache_salt is not None,
        streaming,
    )
    raw = token_ids if isinstance(token_ids, array) else array("i", token_ids)
    ids = raw.tobytes()
    pieces = [
        head,
        _field(_ID, call.request_id.encode()),
        _input_ids(len(token_ids)),
        tensors,
        _TAG_RAW,
        _varint(len(ids)),
        ids,
        _lengths.pack(_RAW_4, len(token_ids), _RAW_4, call.max_tokens),
    ]
    if seed is not None:
        pieces.append(_number.pack(_RAW_8, seed & _SEED_MASK))
    if call.cache_salt is not None:
        pieces.append(_number.pack(_RAW_8, call.cache_salt))
    pieces.append(contents)
    if call.guide is not None or sampling.logit_bias:
        more = _Tensors()
        _add_rare(more, call)
        pieces += (bytes(more.tensors), bytes(more.contents))
    return b"".join(pieces)


def stop_request(model: str, request_id: str) -> bytes:
    """Returns the request that stops the one of that id, which then sends its final response."""
    made = _Tensors()
    # The template requires these three in every request, even in one that only stops another.
    made.int32("input_ids", 0)
    made.int32("input_lengths", 1)
    made.int32("request_output_len", 1)
    made.boolean("stop", True)
    named = _field(_MODEL_NAME, model.encode()) + _field(_ID, request_id.encode())
    return bytes(named + made.tensors + made.contents)


@lru_cache(maxsize=_MAX_TEMPLATES)
def _template(
    model: str,
    end_id: int,
    pad_id: int | None,
    extra_end_ids: tuple[int, ...],
    distribution: _Distribution,
    penalties: _Penalties,
    told: _Told,
    seeded: bool,
    salted: bool,
    streaming: bool,
) -> _Template:
    varying, made = _Tensors(), _Tensors()
    varying.int32("input_lengths", 0)
    varying.int32("request_output_len", 0)
    if seeded:
        varying.add("seed", "UINT64", (1, 1), bytes(8))
    if salted:
        varying.add("cache_salt_id", "UINT64", (1, 1), bytes(8))
    made.int32("end_id", end_id)
    if pad_id is not None:
        made.int32("pad_id", pad_id)
    made.boolean("streaming", streaming)
    if not streaming:
        # The only response would otherwise begin with the prompt.
        made.boolean("exclude_input_in_output", True)
    if extra_end_ids:
        made.words("stop_words_list", extra_end_ids)
    _add_distribution(made, distribution)
    # Only what was requested is sent: an absent tensor means the engine's own default.
    names = ("presence_penalty", "frequency_penalty", "repetition_penalty")
    for name, value, neutral in zip(names, penalties, (0.0, 0.0, 1.0), strict=True):
        if value is not None and value != neutral:
            # A repetition penalty is above 0, as long as it is not rounded.
            is_factor = name == "repetition_penalty"
            made.fp32(name, max(value, _SMALLEST_FP32) if is_factor else value)
    outputs = _add_told(made, told)
    wanted = b"".join(_field(_OUTPUTS, _field(_NAME, name.encode())) for name in outputs)
    return _Template(
        _field(_MODEL_NAME, model.encode()),
        bytes(varying.tensors + made.tensors) + wanted,
        bytes(made.contents),
    )


def _add_distribution(made: _Tensors, distribution: _Distribution) -> None:
    temperature, top_p, top_k, min_p = distribution
    if temperature is not None and _rounded(temperature) == 0:
        made.int32("runtime_top_k", 1)
        return
    if temperature is not None:
        made.fp32("temperature", temperature)
    if top_k is not None:
        made.int32("runtime_top_k", top_k)
    # Always sent: with neither top-k nor top-p TensorRT-LLM takes the likeliest token. It reads 0
    # as "not set", so the smallest nucleus is slightly above 0.
    made.fp32("runtime_top_p", 1.0 if top_p is None else max(top_p, 1e-6))
    if min_p and _rounded(min_p):
        made.fp32("min_p", min_p)


def _add_told(made: _Tensors, told: _Told) -> list[str]:
    """Returns the outputs to request, and adds the tensors that some of them need."""
    finish_reason, log_probs, top_log_probs, perf_metrics = told
    outputs = [OUTPUT_IDS, SEQUENCE_LENGTH]
    if finish_reason:
        outputs.append(FINISH_REASON)
    if log_probs:
        made.boolean("return_log_probs", True)
        outputs.append(LOG_PROBS)
    if top_log_probs:
        made.int32("num_top_log_probs", top_log_probs)
        outputs += [TOP_IDS, TOP_LOG_PROBS]
    if perf_metrics:
        made.boolean("return_perf_metrics", True)
        outputs += [*CLOCKS, REUSED_BLOCKS]
    return outputs


def _add_rare(made: _Tensors, call: GenerateCall) -> None:
    """Adds what is too large or too specific to one caller to be cached."""
    if call.guide is not None:
        made.text("guided_decoding_guide_type", call.guide.kind)
        if call.guide.text:
            made.text("guided_decoding_guide", call.guide.text)
    if call.sampling.logit_bias:
        bias = array("f", bytes(4 * call.vocab_size))
        for token, value in call.sampling.logit_bias.items():
            bias[token] = value
        made.add("embedding_bias", "FP32", (1, call.vocab_size), bias.tobytes())


class _Tensors:
    """Input tensors, and their contents in the same order."""

    __slots__ = ("contents", "tensors")

    def __init__(self) -> None:
        self.tensors = bytearray()
        self.contents = bytearray()

    def add(self, name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> None:
        self.tensors += _tensor(name, datatype, shape)
        self.contents += _field(_RAW, raw)

    def int32(self, name: str, value: int) -> None:
        self.add(name, "INT32", (1, 1), struct.pack("<i", value))

    def fp32(self, name: str, value: float) -> None:
        self.add(name, "FP32", (1, 1), _fp32.pack(value))

    def boolean(self, name: str, value: bool) -> None:
        self.add(name, "BOOL", (1, 1), b"\x01" if value else b"\x00")

    def text(self, name: str, value: str) -> None:
        raw = value.encode()
        self.add(name, "BYTES", (1, 1), struct.pack("<I", len(raw)) + raw)

    def words(self, name: str, tokens: Sequence[int]) -> None:
        """Adds words of one token each. Row 0 holds the tokens, row 1 where each word ends."""
        ends = range(1, len(tokens) + 1)
        raw = array("i", [*tokens, *ends]).tobytes()
        self.add(name, "INT32", (1, 2, len(tokens)), raw)


def _rounded(value: float) -> float:
    """`value` as the engine reads it: below about 7e-46 that is 0."""
    number: float = _fp32.unpack(_fp32.pack(value))[0]
    return number


@lru_cache(maxsize=1024)
def _input_ids(count: int) -> bytes:
    return _tensor("input_ids", "INT32", (1, count))


def _tensor(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    packed = b"".join(_varint(size) for size in shape)
    return _field(
        _INPUTS,
        _field(_NAME, name.encode())
        + _field(_DATATYPE, datatype.encode())
        + _field(_SHAPE, packed),
    )


def _field(number: int, content: bytes) -> bytes:
    """Encodes a field of bytes, text, a message or packed numbers."""
    return bytes((number << 3 | 2,)) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Encodes a number of at least 0: 7 bits a byte, the lowest first."""
    if value < 0x80:
        return _SMALL[value]
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SMALL = [bytes((value,)) for value in range(0x80)]
