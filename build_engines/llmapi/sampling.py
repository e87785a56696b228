"""Turns requests into arguments of `tensorrt_llm.SamplingParams`, and its outputs into our tokens.

This module does not import TensorRT-LLM. Source: tensorrt_llm/sampling_params.py and
tensorrt_llm/executor/result.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engines.serving.request import FinishReason, Generation, Request, RequestError

#: `SamplingParams` has a separate field for each kind of guide.
_GUIDES = {"json_schema": "json", "regex": "regex", "ebnf_grammar": "grammar"}
_FINISHES: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "timeout": "length",
    "cancelled": "cancelled",
}


def sampling_arguments(request: Request) -> dict[str, Any]:
    """Returns keyword arguments of `SamplingParams`; `guided_decoding` holds those of its class.

    Raises: RequestError for what it cannot express.
    """
    sampling = request.sampling
    arguments: dict[str, Any] = {
        "max_tokens": request.max_new_tokens,
        "end_id": request.end_id,
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        # Only the orchestrator decodes tokens; a stop word stays in the output as in TensorRT.
        "detokenize": False,
        "include_stop_str_in_output": True,
        "ignore_eos": request.end_id < 0,
    }
    if request.min_tokens:
        arguments["min_tokens"] = request.min_tokens
    if request.stop_words:
        arguments["stop_token_ids"] = _single("stop_words_list", request.stop_words)
    if sampling.bad_words:
        arguments["bad_token_ids"] = _single("bad_words_list", sampling.bad_words)
    if sampling.bias is not None:
        arguments["embedding_bias"] = sampling.bias
    if request.log_probs or request.top_log_probs:
        arguments["logprobs"] = max(1, request.top_log_probs)
    if request.guide is not None:
        field = _GUIDES.get(request.guide.type)
        arguments["guided_decoding"] = (
            {"json_object": True} if field is None else {field: request.guide.text}
        )
    return arguments


def cache_salt(request: Request) -> str | None:
    """Returns the text from which TensorRT-LLM makes its own salt; None without a salt."""
    return f"{request.cache_salt:016x}" if request.cache_salt else None


def take(
    generation: Generation,
    token_ids: Sequence[int],
    alternatives: Sequence[Mapping[int, float]],
    now_ns: int,
) -> bool:
    """Appends new tokens with their log-probabilities; returns True if they are the first ones.

    `alternatives` hold for each token the log-probabilities by id, including the token's own.
    """
    is_first = not generation.token_ids and bool(token_ids)
    if is_first:
        generation.timing.first_token = now_ns
    request = generation.request
    for index, token in enumerate(token_ids):
        if request.log_probs or request.top_log_probs:
            known = alternatives[index]
            generation.log_probs.append(known[token])
            if request.top_log_probs:
                generation.top_log_probs.append(_best(known, request.top_log_probs))
        generation.token_ids.append(token)
    if token_ids:
        generation.timing.last_token = now_ns
    return is_first


def finish_reason(reason: str | None) -> FinishReason:
    """Translates TensorRT-LLM's finish reason into ours."""
    return _FINISHES.get(reason or "", "stop")


def _best(
    known: Mapping[int, float], count: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Returns the `count` most probable tokens, best first; a sampled token outside is left out."""
    best = sorted(known.items(), key=lambda item: (-item[1], item[0]))[:count]
    ids = np.array([token for token, _ in best], np.int32)
    return ids, np.array([value for _, value in best], np.float32)


def _single(name: str, words: Sequence[Sequence[int]]) -> list[int]:
    for word in words:
        if len(word) != 1:
            raise RequestError(f"`{name}` holds a word of {len(word)} tokens, must be of 1")
    return [word[0] for word in words]
