"""TensorRT-LLM's tensors: how requests are built from them and answers are read.

Source: the C++ backend's `config.pbtxt` of TensorRT-LLM 1.2 (`inflight_batcher_llm/tensorrt_llm`).
Scalars travel as `[1, 1]`, because the model has a batch dimension that the template reshapes away.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

from orchestrator.core.request import SamplingParams
from orchestrator.core.value import value
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


@value
class Guide:
    """The grammar that the output must follow. `param` is the request field that asks for it."""

    kind: GuideKind
    text: str = ""
    param: str = "response_format"


@value
class GenerateCall:
    """One sequence to generate.

    `model` is Triton's directory name. `request_id` is unique among all calls in flight.
    `extra_end_ids` end the sequence as `end_id` does. Outputs beyond the two that TensorRT-LLM
    always returns are requested only if the engine declares them. `top_log_probs` is the number
    of alternatives to return for each token; it needs `log_probs`.
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
    seed: int | None = None
    """Replaces the seed in `sampling`."""
    whole: bool = False
    """Whether the caller allows a single, non-streamed response."""
    cache_salt: int | None = None
    """Limits reuse of the cached prompt: only requests with the same salt, a number below 2**64,
    may use it. `None` for an engine that takes no salt."""


@value
class LogProbs:
    """Natural logarithms for the tokens of one chunk: for each token one of `drawn`, one of `top`.

    `top` is empty if no alternatives were requested. Otherwise the likeliest come first.
    """

    drawn: Sequence[float]
    top: Sequence[Sequence[tuple[int, float]]] = ()


@value
class EngineMetrics:
    """What the engine reports of one sequence. Its clock is monotonic, not the wall clock."""

    arrived_ns: int
    scheduled_ns: int
    first_token_ns: int
    last_token_ns: int
    reused_blocks: int


class TokenChunk(NamedTuple):
    """What one response added: new token ids only; `finish_reason` if the engine reports it.

    A tuple, because one is made for every token and a frozen dataclass takes four times as long.
    """

    token_ids: Sequence[int]
    final: bool
    finish_reason: str | None = None
    log_probs: LogProbs | None = None
    metrics: EngineMetrics | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it holds only tokens."""
        return self.finish_reason is None and self.log_probs is None and self.metrics is None


def read_chunk(response: service_pb2.ModelInferResponse, received: int = 0) -> TokenChunk:
    """Reads the tokens that `response` adds to the `received` ones before it."""
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
    """Reads those of the last `count` tokens: TensorRT-LLM repeats all earlier ones."""
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
