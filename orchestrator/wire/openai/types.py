"""What the dialects of OpenAI share: sampling fields, stop strings, usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.events import Usage
from orchestrator.core.request import RouteHint, SamplingParams
from orchestrator.http.bodies import check_at_least, check_range, shown
from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.openapi import INFERENCE, Operation

MAX_STOPS = 4
MAX_CHOICES = 8
MAX_BIASES = 1024
MAX_MODEL_CHARACTERS = 256
_LARGEST_INT32 = 2**31 - 1
_NO_LIMIT = -1


class SamplingFields(msgspec.Struct, kw_only=True):
    """Fields of every request that generates text. `null` means the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    top_k: int | None = None
    """Not OpenAI's; 0 means no limit, and so does -1, as vLLM has it."""
    min_p: float | None = None
    """Not OpenAI's."""
    repetition_penalty: float | None = None
    """Not OpenAI's."""
    stop: str | list[str] | None = None
    n: int | None = None


def sampling_params(fields: SamplingFields) -> SamplingParams:
    """The checked sampling parameters. Raises: InvalidRequest."""
    check_range("temperature", fields.temperature, 0, 2)
    check_range("top_p", fields.top_p, 0, 1)
    check_range("min_p", fields.min_p, 0, 1)
    check_range("presence_penalty", fields.presence_penalty, -2, 2)
    check_range("frequency_penalty", fields.frequency_penalty, -2, 2)
    check_range("top_k", fields.top_k, -1, _LARGEST_INT32)
    if fields.repetition_penalty is not None and not 0 < fields.repetition_penalty <= 10:
        raise InvalidRequest(
            "`repetition_penalty` must be above 0 and at most 10; "
            f"{fields.repetition_penalty:g} was given.",
            param="repetition_penalty",
        )
    return SamplingParams(
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=0 if fields.top_k == _NO_LIMIT else fields.top_k,
        min_p=fields.min_p,
        seed=fields.seed,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        repetition_penalty=fields.repetition_penalty,
        logit_bias=_logit_bias(fields.logit_bias or {}),
    )


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """The stop strings. Raises: InvalidRequest for more than four, or an empty one."""
    if stop is None:
        return ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(
            f"`stop` may hold {MAX_STOPS} strings at most; it holds {len(stops)}.", param="stop"
        )
    if "" in stops:
        raise InvalidRequest("`stop` may not hold an empty string.", param="stop")
    return stops


def choice_count(n: int | None) -> int:
    """How many answers are wanted. Raises: InvalidRequest."""
    check_range("n", n, 1, MAX_CHOICES)
    return 1 if n is None else n


def token_limit(name: str, value: int | None) -> int | None:
    """The most tokens wanted. Raises: InvalidRequest."""
    check_at_least(name, value, 1)
    check_range(name, value, 1, _LARGEST_INT32)
    return value


def room_limit(name: str, value: int | None) -> int | None:
    """`token_limit`, but -1 means all that fits, as llama.cpp has it. Raises: InvalidRequest."""
    return None if value == _NO_LIMIT else token_limit(name, value)


def route_hint(hint: str | None) -> RouteHint:
    """Where the caller wants to be served. Raises: InvalidRequest."""
    match hint:
        case None | "local-only":
            return "local-only"
        case "cloud-ok":
            return "cloud-ok"
        case _:
            raise InvalidRequest(
                f"`route_hint` must be `local-only` or `cloud-ok`; {shown(hint)} was given.",
                param="route_hint",
            )


def required_model(model: str) -> str:
    """The model's name. Raises: InvalidRequest when it is empty or can be nobody's."""
    if not model:
        raise InvalidRequest("`model` may not be empty.", param="model")
    if len(model) > MAX_MODEL_CHARACTERS:
        raise InvalidRequest(
            f"`model` may have {MAX_MODEL_CHARACTERS} characters at most; it has {len(model)}.",
            param="model",
        )
    return model


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`, with the details that its newer clients read."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def json_body(kind: Any, example: Mapping[str, Any], reply: Any = None) -> Operation:
    """The description of a call that an engine answers."""
    return Operation(
        body=kind,
        reply=reply,
        example=example,
        errors=INFERENCE,
        error=ErrorReply,
        limited=True,
    )


def _logit_bias(given: dict[str, float]) -> dict[int, float]:
    if len(given) > MAX_BIASES:
        raise InvalidRequest(
            f"`logit_bias` may name {MAX_BIASES} tokens at most; it names {len(given)}.",
            param="logit_bias",
        )
    bias: dict[int, float] = {}
    for token, value in given.items():
        if not token.isascii() or not token.isdigit() or len(token) > 10:
            raise InvalidRequest(
                f"`logit_bias` must be keyed by token ids; {shown(token)} is none.",
                param="logit_bias",
            )
        check_range("logit_bias", value, -100, 100)
        bias[int(token)] = value
    return bias
