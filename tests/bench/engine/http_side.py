"""An OpenAI-compatible server on HTTP/1.1: what other gateways are put in front of."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Any, cast

import orjson

from tests.bench.engine.work import DIMENSION, Tokens, vectors

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
_TEXT = " sea"
_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "bench", "system_fingerprint": None}


class HttpSide(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._rest = b""
        self._tokens: Tokens | None = None
        self._begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        del exc
        if self._tokens is not None:
            self._tokens.stop()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            head = self._rest[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            body = self._rest[end + 4 : end + 4 + size]
            if len(body) < size:
                if b"100-continue" in head:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            self._rest = self._rest[end + 4 + size :]
            self._serve(head.split(b" ", 2)[1], body)

    def _serve(self, path: bytes, body: bytes) -> None:
        if path.endswith(b"/chat/completions"):
            self._chat(orjson.loads(body))
        elif path.endswith(b"/embeddings"):
            asked = orjson.loads(body)
            given = asked["input"]
            rows = 1 if isinstance(given, str) else len(given)
            self._reply(_embeddings(rows, asked.get("encoding_format") or "float"))
        elif path.endswith(b"/models"):
            models = [{"id": name, "object": "model"} for name in ("paced", "burst", "embed")]
            self._reply(orjson.dumps({"object": "list", "data": models}))
        else:
            self._reply(b'{"status":"ok","model_path":"bench","served_model_name":"bench"}')

    def _chat(self, asked: dict[str, Any]) -> None:
        count = asked.get("max_tokens") or asked.get("max_completion_tokens") or 16
        usage = {"prompt_tokens": 8, "completion_tokens": count, "total_tokens": 8 + count}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": _TEXT * count}
            choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": None}
            whole = _HEAD | {"object": "chat.completion", "choices": [choice], "usage": usage}
            body = orjson.dumps(whole)
            self._tokens = Tokens(asked["model"], 1, lambda *_: self._reply(body))
            return
        wants_usage = (asked.get("stream_options") or {}).get("include_usage")
        end = _chunk({}, "length") + (_event([], usage) if wants_usage else b"")
        self._begun = False
        self._tokens = Tokens(
            asked["model"], count, lambda now, over: self._emit(now, end if over else b"")
        )

    def _emit(self, count: int, end: bytes) -> None:
        raw = _TOKEN * count
        if not self._begun:
            self._begun = True
            raw = _STREAM_HEAD + _OPENING + raw
        if end:
            raw += end + _DONE
        self._transport.write(raw)

    def _reply(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % len(body)
            + body
        )


def _event(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    chunk = _HEAD | {"object": "chat.completion.chunk", "choices": choices, "usage": usage}
    raw = b"data: " + orjson.dumps(chunk) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(raw), raw)


def _chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
    return _event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}])


def _embeddings(rows: int, encoding: str) -> bytes:
    if (found := _EMBEDDINGS.get((rows, encoding))) is None:
        raw, size = vectors(rows), DIMENSION * 4
        one = [raw[at * size : (at + 1) * size] for at in range(rows)]
        written: list[Any] = (
            [base64.b64encode(vector).decode() for vector in one]
            if encoding == "base64"
            else [struct.unpack(f"<{DIMENSION}f", vector) for vector in one]
        )
        listed = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(written)
        ]
        usage = {"prompt_tokens": rows, "total_tokens": rows}
        found = _EMBEDDINGS[rows, encoding] = orjson.dumps(
            {"object": "list", "data": listed, "model": "embed", "usage": usage}
        )
    return found


_EMBEDDINGS: dict[tuple[int, str], bytes] = {}
_OPENING = _chunk({"role": "assistant", "content": ""})
_TOKEN = _chunk({"content": _TEXT})
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
