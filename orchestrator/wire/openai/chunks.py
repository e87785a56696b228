"""What the replies of chat and of legacy completions have in common, chunk by chunk and whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson

from orchestrator.core.events import Completion, GenerationStarted, Usage
from orchestrator.wire.openai.types import usage_object

DONE = b"data: [DONE]\n\n"
escaped = json.encoder.encode_basestring_ascii
"""A text as JSON, in ASCII."""


def envelope(kind: str, reply_id: str, started: GenerationStarted, fingerprint: str) -> bytes:
    """What stands before the choices of every chunk, rendered once for each stream."""
    return (
        f'data: {{"id":{escaped(reply_id)},"object":"{kind}",'
        f'"created":{started.created_at},"model":{escaped(started.model)},'
        f'"system_fingerprint":{escaped(fingerprint)},"choices":['
    ).encode("ascii")


def chunk_end(*, include_usage: bool) -> bytes:
    """What stands behind them: a client that asked for usage finds the member in every chunk."""
    return b'],"usage":null}\n\n' if include_usage else b"]}\n\n"


def last_frames(head: bytes, usage: Usage, *, include_usage: bool) -> Sequence[bytes]:
    """The end of a stream, with the usage before it where it was asked for."""
    if not include_usage:
        return (DONE,)
    return (head + b'],"usage":' + orjson.dumps(usage_object(usage)) + b"}\n\n", DONE)


def error_frames(chunk: bytes, members: dict[str, Any]) -> Sequence[bytes]:
    """`chunk` with an error in it, and the end of the stream.

    It has `choices`, because the simplest clients read them without looking.
    """
    rest = json.dumps(members, separators=(",", ":")).encode("ascii")[1:]
    return (chunk.removesuffix(b"}\n\n") + b"," + rest + b"\n\n", DONE)


def whole_reply(
    kind: str,
    reply_id: str,
    completion: Completion,
    fingerprint: str,
    choices: Sequence[dict[str, Any]],
) -> bytes:
    """The body of a reply that is not streamed."""
    return orjson.dumps(
        {
            "id": reply_id,
            "object": kind,
            "created": completion.created_at,
            "model": completion.model,
            "system_fingerprint": fingerprint,
            "choices": choices,
            "usage": usage_object(completion.usage),
        }
    )
