"""The request that starts a generation, built by the protobuf library: slow, and easily right."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from tritonclient.grpc import service_pb2

from orchestrator.core.request import SamplingParams
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


def reference_request(
    call: GenerateCall, *, streaming: bool = True
) -> service_pb2.ModelInferRequest:
    """The request that starts `call`, as the library writes it."""
    request = service_pb2.ModelInferRequest(model_name=call.model, id=call.request_id)
    tensors = _Tensors(request)
    count = len(call.token_ids)
    tensors.add("input_ids", "INT32", [1, count], array("i", call.token_ids).tobytes())
    tensors.int32("input_lengths", count)
    tensors.int32("request_output_len", call.max_tokens)
    tensors.int32("end_id", call.end_id)
    if call.pad_id is not None:
        tensors.int32("pad_id", call.pad_id)
    tensors.boolean("streaming", streaming)
    if not streaming:
        tensors.boolean("exclude_input_in_output", True)
    if call.extra_end_ids:
        tensors.word_list("stop_words_list", [[token] for token in call.extra_end_ids])
    _add_sampling(tensors, call)
    if call.guide is not None:
        tensors.text("guided_decoding_guide_type", call.guide.kind)
        if call.guide.text:
            tensors.text("guided_decoding_guide", call.guide.text)
    if call.log_probs:
        tensors.boolean("return_log_probs", True)
    if call.top_log_probs:
        tensors.int32("num_top_log_probs", call.top_log_probs)
    if call.reports_perf_metrics:
        tensors.boolean("return_perf_metrics", True)
    for name in _wanted_outputs(call):
        request.outputs.add(name=name)
    return request


def _wanted_outputs(call: GenerateCall) -> list[str]:
    names = [OUTPUT_IDS, SEQUENCE_LENGTH]
    if call.reports_finish_reason:
        names.append(FINISH_REASON)
    if call.log_probs:
        names.append(LOG_PROBS)
    if call.top_log_probs:
        names += [TOP_IDS, TOP_LOG_PROBS]
    if call.reports_perf_metrics:
        names += [*CLOCKS, REUSED_BLOCKS]
    return names


class _Tensors:
    def __init__(self, request: service_pb2.ModelInferRequest) -> None:
        self._request = request

    def add(self, name: str, datatype: str, shape: list[int], raw: bytes) -> None:
        self._request.inputs.add(name=name, datatype=datatype, shape=shape)
        self._request.raw_input_contents.append(raw)

    def int32(self, name: str, value: int) -> None:
        self.add(name, "INT32", [1, 1], struct.pack("<i", value))

    def uint64(self, name: str, value: int) -> None:
        self.add(name, "UINT64", [1, 1], struct.pack("<Q", value))

    def fp32(self, name: str, value: float) -> None:
        self.add(name, "FP32", [1, 1], struct.pack("<f", value))

    def boolean(self, name: str, value: bool) -> None:
        self.add(name, "BOOL", [1, 1], b"\x01" if value else b"\x00")

    def text(self, name: str, value: str) -> None:
        raw = value.encode()
        self.add(name, "BYTES", [1, 1], struct.pack("<I", len(raw)) + raw)

    def word_list(self, name: str, words: Sequence[Sequence[int]]) -> None:
        """Row 0: all ids in a row, padded with 0. Row 1: where each word ends, padded with -1."""
        ids = [token for word in words for token in word]
        ends: list[int] = []
        for word in words:
            ends.append((ends[-1] if ends else 0) + len(word))
        ends += [-1] * (len(ids) - len(ends))
        self.add(name, "INT32", [1, 2, len(ids)], array("i", ids + ends).tobytes())


def _add_sampling(tensors: _Tensors, call: GenerateCall) -> None:
    """Only what was asked for travels: an absent tensor is the engine's own default."""
    sampling = call.sampling
    if sampling.temperature == 0:
        tensors.int32("runtime_top_k", 1)
    else:
        _add_distribution(tensors, sampling)
    seed = call.seed if call.seed is not None else sampling.seed
    if seed is not None:
        tensors.uint64("seed", seed & 0xFFFFFFFFFFFFFFFF)
    if call.cache_salt is not None:
        tensors.uint64("cache_salt_id", call.cache_salt)
    for name, value, neutral in (
        ("presence_penalty", sampling.presence_penalty, 0.0),
        ("frequency_penalty", sampling.frequency_penalty, 0.0),
        ("repetition_penalty", sampling.repetition_penalty, 1.0),
    ):
        if value is not None and value != neutral:
            tensors.fp32(name, value)
    if sampling.logit_bias:
        bias = array("f", bytes(4 * call.vocab_size))
        for token, value in sampling.logit_bias.items():
            bias[token] = value
        tensors.add("embedding_bias", "FP32", [1, call.vocab_size], bias.tobytes())


def _add_distribution(tensors: _Tensors, sampling: SamplingParams) -> None:
    if sampling.temperature is not None:
        tensors.fp32("temperature", sampling.temperature)
    if sampling.top_k is not None:
        tensors.int32("runtime_top_k", sampling.top_k)
    # Always sent: with neither top-k nor top-p TensorRT-LLM takes the likeliest token. It takes 0
    # for "not set", so the smallest nucleus is a little more than that.
    tensors.fp32("runtime_top_p", 1.0 if sampling.top_p is None else max(sampling.top_p, 1e-6))
    if sampling.min_p:
        tensors.fp32("min_p", sampling.min_p)
