"""TensorRT-LLM's tensors, as requests are built from them and answers read out of them.

Source: the C++ backend's `config.pbtxt` of TensorRT-LLM 1.2 (`inflight_batcher_llm/tensorrt_llm`).
Scalars travel as `[1, 1]`, because the model has a batch dimension that the template reshapes away.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from orchestrator.core.request import SamplingParams
from orchestrator.triton.messages import service_pb2

OUTPUT_IDS = "output_ids"
SEQUENCE_LENGTH = "sequence_length"
FINISH_REASON = "finish_reason"
LOG_PROBS = "output_log_probs"
TOP_IDS = "top_log_prob_ids"
TOP_LOG_PROBS = "top_log_probs"
REUSED_BLOCKS = "kv_cache_reused_blocks"
CLOCKS = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
FINAL_RESPONSE = "triton_final_response"

GuideKind = Literal["json", "json_schema", "regex", "ebnf_grammar"]


@dataclass(frozen=True, slots=True)
class Guide:
    """What the output must follow. `param` is the caller's field that asks for it."""

    kind: GuideKind
    text: str = ""
    param: str = "response_format"


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """One sequence to generate.

    `model` is Triton's directory name, `request_id` unique among all that are in flight.
    `extra_end_ids` end the sequence as `end_id` does. Outputs beyond the two that TensorRT-LLM
    always gives are asked for only where the engine declares them. `top_log_probs` is how many
    alternatives are wanted beside each drawn token; it needs `log_probs`.
    """

    model: str
    request_id: str
    token_ids: Sequence[int]
    max_tokens: int
    end_id: int
    pad_id: int | None
    extra_end_ids: Sequence[int]
    sampling: SamplingParams
    vocab_size: int
    reports_finish_reason: bool
    reports_perf_metrics: bool = False
    log_probs: bool = False
    top_log_probs: int = 0
    guide: Guide | None = None
    streaming: bool = True


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Natural logarithms for the tokens of one chunk: one of `drawn`, and of `top`, a token.

    `top` is empty where no alternatives were asked for, otherwise the likeliest come first.
    """

    drawn: Sequence[float]
    top: Sequence[Sequence[tuple[int, float]]] = ()


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """What the engine tells of one sequence. Its clock is steady and is not the wall clock."""

    arrived_ns: int
    scheduled_ns: int
    first_token_ns: int
    last_token_ns: int
    reused_blocks: int


class TokenChunk(NamedTuple):
    """What one response added: new token ids only, `finish_reason` where the engine tells it.

    A tuple, because one is made for every token and a frozen dataclass takes four times as long.
    """

    token_ids: Sequence[int]
    final: bool
    finish_reason: str | None = None
    log_probs: LogProbs | None = None
    metrics: EngineMetrics | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it tells of nothing but tokens."""
        return self.finish_reason is None and self.log_probs is None and self.metrics is None


def generate_request(call: GenerateCall) -> service_pb2.ModelInferRequest:
    """The request that starts `call`."""
    request = service_pb2.ModelInferRequest(model_name=call.model, id=call.request_id)
    tensors = _Tensors(request)
    count = len(call.token_ids)
    tensors.add("input_ids", "INT32", [1, count], array("i", call.token_ids).tobytes())
    tensors.int32("input_lengths", count)
    tensors.int32("request_output_len", call.max_tokens)
    tensors.int32("end_id", call.end_id)
    if call.pad_id is not None:
        tensors.int32("pad_id", call.pad_id)
    tensors.boolean("streaming", call.streaming)
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


def stop_request(model: str, request_id: str) -> service_pb2.ModelInferRequest:
    """The request that ends the one of the same id; the other answers with its final response."""
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    tensors = _Tensors(request)
    # The template requires these three of every request, one that only stops another included.
    tensors.add("input_ids", "INT32", [1, 1], struct.pack("<i", 0))
    tensors.int32("input_lengths", 1)
    tensors.int32("request_output_len", 1)
    tensors.boolean("stop", True)
    return request


def read_chunk(response: service_pb2.ModelInferResponse, received: int = 0) -> TokenChunk:
    """The tokens that `response` adds to the `received` ones before it."""
    raw = response.raw_output_contents
    ids: bytes = b""
    length: int | None = None
    reason: str | None = None
    others: dict[str, int] | None = None
    for index, output in enumerate(response.outputs):
        if output.name == OUTPUT_IDS:
            ids = raw[index]
        elif output.name == SEQUENCE_LENGTH:
            length = int.from_bytes(raw[index][:4], "little", signed=True)
        elif output.name == FINISH_REASON:
            if len(raw[index]) > 4:
                reason = raw[index][4:].decode("utf-8", "replace")
        else:
            others = others or {}
            others[output.name] = index
    valid = len(ids) // 4 if length is None else min(length, len(ids) // 4)
    tokens = struct.unpack_from(f"<{valid}i", ids) if valid else ()
    final = response.parameters[FINAL_RESPONSE].bool_param if response.parameters else False
    if others is None:
        return TokenChunk(tokens, final, reason)
    log_probs = _log_probs(response, others, valid, received)
    return TokenChunk(tokens, final, reason, log_probs, _metrics(raw, others))


def _log_probs(
    response: service_pb2.ModelInferResponse, outputs: dict[str, int], count: int, received: int
) -> LogProbs | None:
    """Those of the last `count` tokens: TensorRT-LLM repeats all that came before them."""
    if (index := outputs.get(LOG_PROBS)) is None or not count:
        return None
    raw = response.raw_output_contents
    begin = received if len(raw[index]) // 4 >= received + count else len(raw[index]) // 4 - count
    drawn = struct.unpack_from(f"<{count}f", raw[index], 4 * begin)
    if (ids_at := outputs.get(TOP_IDS)) is None or (
        values_at := outputs.get(TOP_LOG_PROBS)
    ) is None:
        return LogProbs(drawn)
    width = response.outputs[ids_at].shape[-1]
    ids = struct.unpack_from(f"<{count * width}i", raw[ids_at])
    values = struct.unpack_from(f"<{count * width}f", raw[values_at])
    pairs = list(zip(ids, values, strict=True))
    return LogProbs(drawn, [pairs[at : at + width] for at in range(0, len(pairs), width)])


def _metrics(raw: Sequence[bytes], outputs: dict[str, int]) -> EngineMetrics | None:
    if CLOCKS[0] not in outputs:
        return None
    numbers = [
        int.from_bytes(raw[outputs[name]], "little", signed=True) if name in outputs else 0
        for name in (*CLOCKS, REUSED_BLOCKS)
    ]
    return EngineMetrics(*numbers)


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
    """Adds input tensors to a request, contents in `raw_input_contents` in the same order."""

    __slots__ = ("_request",)

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
    if sampling.seed is not None:
        tensors.uint64("seed", sampling.seed & 0xFFFFFFFFFFFFFFFF)
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
