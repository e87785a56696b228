"""Parses TensorRT-LLM's input tensors into a checked request.

Tensor names, shapes and meanings: NVIDIA/TensorRT-LLM, the `tensorrt_llm` model of
triton_backend/all_models/inflight_batcher_llm. `min_p`, `num_top_log_probs` and `cache_salt_id`
are our own; the last is named as in TensorRT-LLM's executor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engines.serving.request import (
    GUIDE_TYPES,
    Guide,
    Limits,
    Request,
    RequestError,
    Sampling,
)

Tensors = Mapping[str, npt.NDArray[Any]]

MAX_TOP_LOG_PROBS = 20
_MAX_SALT = 2**64 - 1
#: Limited because the compiled form in an engine is many times as large.
MAX_GUIDE_BYTES = 2 << 20

#: Accepted but without effect here: hints to a GPU scheduler, and settings of beam search.
_WITHOUT_EFFECT = frozenset(
    {
        "pad_id",
        "len_penalty",
        "early_stopping",
        "beam_search_diversity_rate",
        "retention_token_range_starts",
        "retention_token_range_ends",
        "retention_token_range_priorities",
        "retention_token_range_durations_ms",
        "retention_decode_priority",
        "retention_decode_duration_ms",
    }
)
_READ = frozenset(
    {
        "input_ids",
        "input_lengths",
        "request_output_len",
        "num_return_sequences",
        "end_id",
        "stop_words_list",
        "bad_words_list",
        "embedding_bias",
        "beam_width",
        "temperature",
        "runtime_top_k",
        "runtime_top_p",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "min_tokens",
        "seed",
        "return_log_probs",
        "num_top_log_probs",
        "return_context_logits",
        "return_generation_logits",
        "return_perf_metrics",
        "return_num_input_tokens",
        "return_num_output_tokens",
        "exclude_input_in_output",
        "stop",
        "streaming",
        "guided_decoding_guide_type",
        "guided_decoding_guide",
        "cache_salt_id",
    }
)


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request and the form of its responses."""

    request: Request
    streaming: bool
    exclude_input: bool
    perf_metrics: bool
    num_input_tokens: bool
    num_output_tokens: bool


def wants_stop(tensors: Tensors) -> bool:
    """Whether this request asks to end the one with the same id."""
    return _Reader(tensors).flag("stop")


def parse_request(tensors: Tensors, limits: Limits, *, exclude_input: bool = True) -> ParsedRequest:
    """Parses `tensors`, each with its leading batch dimension. Raises: RequestError."""
    read = _Reader(tensors)
    _refuse_unsupported(tensors, read)
    input_ids = _input_ids(tensors, read, limits)
    # TensorRT-LLM clamps too: the answer then ends with `length`.
    room = limits.max_seq_len - len(input_ids)
    request = Request(
        input_ids=input_ids,
        max_new_tokens=min(read.integer("request_output_len", None, 1), room),
        sampling=_sampling(tensors, read, limits),
        end_id=read.integer("end_id", -1, -1, limits.vocab_size - 1),
        stop_words=_words(tensors, "stop_words_list", limits),
        min_tokens=read.integer("min_tokens", 0, 0),
        log_probs=read.flag("return_log_probs"),
        top_log_probs=read.integer("num_top_log_probs", 0, 0, MAX_TOP_LOG_PROBS),
        guide=_guide(tensors),
        cache_salt=read.integer("cache_salt_id", 0, 0, _MAX_SALT),
    )
    return ParsedRequest(
        request=request,
        streaming=read.flag("streaming"),
        exclude_input=read.flag("exclude_input_in_output", exclude_input),
        perf_metrics=read.flag("return_perf_metrics"),
        num_input_tokens=read.flag("return_num_input_tokens"),
        num_output_tokens=read.flag("return_num_output_tokens"),
    )


class _Reader:
    """Reads single values by tensor name and checks their limits."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._value(name)
        return default if value is None else bool(value)

    def integer(self, name: str, default: int | None, low: int, high: int | None = None) -> int:
        value = self._value(name, default)
        number = int(value)
        if number < low or (high is not None and number > high):
            raise RequestError(f"`{name}` is {number}, must be {_span(low, high)}")
        return number

    def number(
        self, name: str, default: float, low: float, high: float = math.inf, *, above: bool = False
    ) -> float:
        number = float(self._value(name, default))
        if not math.isfinite(number) or number > high or number < low or (above and number == low):
            limit = f"> {low:g}" if above else _span(low, high)
            raise RequestError(f"`{name}` is {number:g}, must be {limit}")
        return number

    def _value(self, name: str, default: Any = None) -> Any:
        tensor = self._tensors.get(name)
        if tensor is None:
            if default is None and name in ("request_output_len", "input_lengths"):
                raise RequestError(f"`{name}` is missing")
            return default
        if tensor.size != 1:
            raise RequestError(
                f"`{name}` holds {tensor.size} values, must be 1 (no client batches)"
            )
        return tensor.reshape(-1)[0]


def _span(low: float, high: float | None) -> str:
    if high is None or high == math.inf:
        return "finite" if low == -math.inf else f">= {low:g}"
    return f"from {low:g} to {high:g}"


def _refuse_unsupported(tensors: Tensors, read: _Reader) -> None:
    for name in tensors:
        if name not in _READ and name not in _WITHOUT_EFFECT:
            raise RequestError(f"`{name}` is not supported by this engine")
    for name in ("beam_width", "num_return_sequences"):
        read.integer(name, 1, 1, 1)
    for name in ("return_context_logits", "return_generation_logits"):
        if read.flag(name):
            raise RequestError(f"`{name}` is not supported by this engine")


def _input_ids(tensors: Tensors, read: _Reader, limits: Limits) -> npt.NDArray[np.int32]:
    if "input_ids" not in tensors:
        raise RequestError("`input_ids` is missing")
    ids = np.array(tensors["input_ids"], np.int32).reshape(-1)
    if len(ids) == 0:
        raise RequestError("`input_ids` is empty, must hold at least 1 token")
    ids = ids[: read.integer("input_lengths", None, 1, len(ids))]
    if len(ids) > limits.max_input_len:
        raise RequestError(
            f"`input_ids`: Prompt length ({len(ids)}) exceeds maximum input length "
            f"({limits.max_input_len})"
        )
    _check_vocabulary("input_ids", ids, limits)
    return ids


def _check_vocabulary(name: str, ids: npt.NDArray[np.int32], limits: Limits) -> None:
    wrong = ids[(ids < 0) | (ids >= limits.vocab_size)]
    if len(wrong):
        raise RequestError(
            f"`{name}` holds token {wrong[0]}, must be from 0 to {limits.vocab_size - 1}"
        )


def _sampling(tensors: Tensors, read: _Reader, limits: Limits) -> Sampling:
    top_p = read.number("runtime_top_p", 1.0, -math.inf, 1.0)
    return Sampling(
        temperature=read.number("temperature", 1.0, 0.0, above=True),
        top_k=read.integer("runtime_top_k", 0, 0),
        top_p=top_p if top_p > 0 else 1.0,
        min_p=read.number("min_p", 0.0, 0.0, 1.0),
        seed=read.integer("seed", 0, 0),
        repetition_penalty=read.number("repetition_penalty", 1.0, 0.0, above=True),
        presence_penalty=read.number("presence_penalty", 0.0, -math.inf),
        frequency_penalty=read.number("frequency_penalty", 0.0, -math.inf),
        bias=_bias(tensors, limits),
        bad_words=_words(tensors, "bad_words_list", limits),
    )


def _bias(tensors: Tensors, limits: Limits) -> npt.NDArray[np.float32] | None:
    bias = tensors.get("embedding_bias")
    if bias is None or bias.size == 0:
        return None
    if bias.size != limits.vocab_size:
        raise RequestError(
            f"`embedding_bias` holds {bias.size} values, must be {limits.vocab_size}"
        )
    values = np.array(bias, np.float32).reshape(-1)
    if not (values < np.inf).all():
        raise RequestError("`embedding_bias` holds a value that is no number or infinite")
    return values


def _words(tensors: Tensors, name: str, limits: Limits) -> tuple[tuple[int, ...], ...]:
    """Parses words of a [1, 2, L] list: row 0 holds tokens, row 1 the end of each word, then -1."""
    packed = tensors.get(name)
    if packed is None or packed.size == 0:
        return ()
    if packed.ndim < 2 or packed.shape[-2] != 2 or packed.size != 2 * packed.shape[-1]:
        raise RequestError(f"`{name}` has shape {list(packed.shape)}, must be [1, 2, L]")
    ids, ends = np.array(packed, np.int32).reshape(2, -1)
    used = ends[: int((ends == -1).argmax())] if (ends == -1).any() else ends
    if (ends[len(used) :] != -1).any():
        raise RequestError(f"`{name}`: an end offset follows the first -1")
    words, begin = [], 0
    for end in used.tolist():
        if not begin < end <= len(ids):
            raise RequestError(
                f"`{name}`: end offset {end} must be above {begin} and at most {len(ids)}"
            )
        _check_vocabulary(name, ids[begin:end], limits)
        words.append(tuple(ids[begin:end].tolist()))
        begin = end
    return tuple(words)


def _guide(tensors: Tensors) -> Guide | None:
    kind = _text(tensors, "guided_decoding_guide_type")
    if not kind:
        return None
    if kind not in GUIDE_TYPES:
        raise RequestError(
            f"`guided_decoding_guide_type` is `{kind}`, must be one of {', '.join(GUIDE_TYPES)}"
        )
    text = _text(tensors, "guided_decoding_guide")
    if not text and kind != "json":
        raise RequestError(f"`guided_decoding_guide` is missing for guide type `{kind}`")
    if (size := len(text.encode())) > MAX_GUIDE_BYTES:
        raise RequestError(
            f"`guided_decoding_guide` has {size} bytes, must be at most {MAX_GUIDE_BYTES}"
        )
    return Guide(kind, text)


def _text(tensors: Tensors, name: str) -> str:
    tensor = tensors.get(name)
    if tensor is None or tensor.size == 0:
        return ""
    if tensor.size != 1:
        raise RequestError(f"`{name}` holds {tensor.size} strings, must be 1")
    value = tensor.reshape(-1)[0]
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise RequestError(f"`{name}` is no UTF-8 text") from error
