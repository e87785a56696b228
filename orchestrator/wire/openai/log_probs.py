"""Log-probabilities as OpenAI's chat and legacy dialects write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.core.events import LikelyToken, TokenLogprob

LEAST = -9999.0
"""What OpenAI writes for a token that cannot come; JSON has no infinity."""


def chat_log_probs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The member `logprobs` of a chat choice."""
    content = [
        {**_entry(token), "top_logprobs": [_entry(likely) for likely in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def legacy_log_probs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """The member `logprobs` of a legacy choice whose text begins at `offset`.

    A token's offset is where its text begins; tokens that share a character share its place.
    """
    offsets, pending = [], b""
    for token in tokens:
        offsets.append(offset)
        whole, pending = _whole_characters(pending + token.raw)
        offset += len(whole)
    return {
        "tokens": [_text(token.raw) for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [
            {_text(likely.raw): _finite(likely.logprob) for likely in token.top} or None
            for token in tokens
        ],
        "text_offset": offsets,
    }


def _entry(token: TokenLogprob | LikelyToken) -> dict[str, Any]:
    return {
        "token": _text(token.raw),
        "logprob": _finite(token.logprob),
        "bytes": list(token.raw),
    }


def _text(raw: bytes) -> str:
    r"""The token as text; bytes that are no character of their own are written as `\xff`."""
    return raw.decode("utf-8", "backslashreplace")


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)


def _whole_characters(raw: bytes) -> tuple[str, bytes]:
    """The text of `raw` up to its last whole character, and the rest."""
    try:
        return raw.decode(), b""
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return raw[: error.start].decode("utf-8", "replace"), raw[error.start :]
        return raw.decode("utf-8", "replace"), b""
