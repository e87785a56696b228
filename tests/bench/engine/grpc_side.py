"""Triton's gRPC service as far as the orchestrator uses it, on HTTP/2 in clear text.

Each token is one response, serialised beforehand. Of flow control it keeps the window of the
connection; a stream's is larger than anything that it sends.
"""

from __future__ import annotations

import asyncio
import struct
from typing import cast

from tritonclient.grpc import service_pb2

from orchestrator.triton.http2 import frames, headers
from tests.bench.engine.work import DIMENSION, Tokens, vectors

NAME = "bench-engine"
_FRAME_BYTES = frames.DEFAULT_FRAME_SIZE
_HEAD = headers.encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
_TRAILERS = headers.encode([(b"grpc-status", b"0")])
_WORDS = (600, 1411)
"""What answers are made of, in turns: ` sentence` and ` sea`."""


class GrpcSide(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._rest = b""
        self._greeted = False
        self._window = frames.DEFAULT_WINDOW
        self._stuck: list[tuple[int, bytes]] = []
        self._streams: dict[int, _Stream] = {}
        self.by_id: dict[str, _Stream] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(
            frames.settings(
                (
                    (frames.HEADER_TABLE_SIZE, 0),
                    (frames.INITIAL_WINDOW_SIZE, 2**24),
                )
            )
            + frames.window_update(0, 2**30)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        del exc
        for stream in self._streams.values():
            stream.stop()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        chunk = self._rest + data
        if not self._greeted:
            if len(chunk) < len(frames.PREFACE):
                self._rest = chunk
                return
            self._greeted = True
            chunk = chunk[len(frames.PREFACE) :]
        at = 0
        while len(chunk) - at >= frames.HEADER_BYTES:
            high, low, kind, flags, number = frames.header.unpack_from(chunk, at)
            end = at + frames.HEADER_BYTES + (high << 8 | low)
            if end > len(chunk):
                break
            self._take(kind, flags, number, chunk[at + frames.HEADER_BYTES : end])
            at = end
        self._rest = chunk[at:]

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == frames.HEADERS:
            if flags & frames.HAS_PRIORITY:
                payload = payload[5:]
            self._streams[number] = _Stream(self, number, headers.decode(payload)[":path"])
        elif kind == frames.DATA:
            self._take_data(flags, number, payload)
        elif kind == frames.RST_STREAM:
            self.forget(number)
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._transport.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        elif kind == frames.PING and not flags & frames.ACK:
            self._transport.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.WINDOW_UPDATE and number == 0:
            self._window += frames.read_long(payload)
            self._unstick()

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.body += payload
        if flags & frames.END_STREAM:
            stream.serve()

    def forget(self, number: int) -> None:
        """The stream is over."""
        if (stream := self._streams.pop(number, None)) is not None:
            stream.stop()

    def write(self, raw: bytes, counted: int) -> None:
        """Sends frames whose data are `counted` bytes, when the window has room for them."""
        if self._stuck or counted > self._window:
            self._stuck.append((counted, raw))
            return
        self._window -= counted
        self._transport.write(raw)

    def _unstick(self) -> None:
        while self._stuck and self._stuck[0][0] <= self._window:
            counted, raw = self._stuck.pop(0)
            self._window -= counted
            self._transport.write(raw)


class _Stream:
    """One call."""

    __slots__ = ("_begun", "_id", "_number", "_path", "_responses", "_side", "_tokens", "body")

    def __init__(self, side: GrpcSide, number: int, path: str) -> None:
        self._side = side
        self._number = number
        self._path = path
        self.body = b""
        self._id = ""
        self._begun = False
        self._tokens: Tokens | None = None
        self._responses: list[bytes] = []

    def serve(self) -> None:
        """The request is there."""
        method = self._path.rpartition("/")[2]
        raw = self.body[5:]
        if method == "ModelStreamInfer":
            self._generate(service_pb2.ModelInferRequest.FromString(raw))
        elif method == "ModelInfer":
            self._embed(service_pb2.ModelInferRequest.FromString(raw))
        elif method == "ModelReady":
            self._answer(service_pb2.ModelReadyResponse(ready=True).SerializeToString())
        else:
            told = service_pb2.ServerMetadataResponse(name=NAME, version="2.51.0")
            self._answer(told.SerializeToString())

    def stop(self) -> None:
        """Makes no more tokens."""
        if self._tokens is not None:
            self._tokens.stop()
        self._side.by_id.pop(self._id, None)

    def _generate(self, request: service_pb2.ModelInferRequest) -> None:
        names = [tensor.name for tensor in request.inputs]
        given = dict(zip(names, request.raw_input_contents, strict=True))
        if given.get("stop") == b"\x01":
            self._answer(_response(request, [], final=True))
            if (other := self._side.by_id.get(request.id)) is not None:
                other.cancel()
            return
        self._id = request.id
        self._side.by_id[request.id] = self
        (count,) = struct.unpack("<i", given["request_output_len"])
        if given["streaming"] == b"\x00":
            whole = _response(request, [_WORDS[0]] * count, final=True)
            self._tokens = Tokens(request.model_name, 1, lambda *_: self._answer(whole))
            return
        self._responses = [
            _framed(self._number, _response(request, [word], final=False)) for word in _WORDS
        ]
        last = _framed(self._number, _response(request, [_WORDS[0]], final=True))
        self._tokens = Tokens(
            request.model_name, count, lambda now, over: self._emit(now, last if over else b"")
        )

    def cancel(self) -> None:
        """Ends the answer where it is."""
        self.stop()
        empty = service_pb2.ModelInferRequest(id=self._id)
        self._answer(_response(empty, [], final=True))

    def _emit(self, count: int, last: bytes) -> None:
        now, self._responses = self._responses, self._responses[::-1]
        pair = b"".join(now)
        plain = count - 1 if last else count
        raw = pair * (plain // 2) + now[0] * (plain % 2) + last
        counted = len(raw) - count * frames.HEADER_BYTES
        if not self._begun:
            self._begun = True
            raw = _head(self._number) + raw
        if last:
            raw += _trailers(self._number)
        self._side.write(raw, counted)
        if last:
            self._side.forget(self._number)

    def _embed(self, request: service_pb2.ModelInferRequest) -> None:
        rows = request.inputs[0].shape[0]
        response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="embedding", datatype="FP32", shape=[rows, DIMENSION])
        response.raw_output_contents.append(vectors(rows))
        self._answer(response.SerializeToString())

    def _answer(self, message: bytes) -> None:
        head = b"" if self._begun else _head(self._number)
        raw = head + _framed(self._number, message) + _trailers(self._number)
        self._side.write(raw, len(message) + 5)
        self._side.forget(self._number)


def _response(request: service_pb2.ModelInferRequest, tokens: list[int], *, final: bool) -> bytes:
    answer = service_pb2.ModelStreamInferResponse()
    response = answer.infer_response
    response.model_name, response.model_version, response.id = request.model_name, "1", request.id
    response.parameters["sequence_id"].int64_param = 0
    response.parameters["triton_final_response"].bool_param = final
    response.outputs.add(name="output_ids", datatype="INT32", shape=[1, 1, len(tokens)])
    response.outputs.add(name="sequence_length", datatype="INT32", shape=[1, 1])
    response.raw_output_contents.append(struct.pack(f"<{len(tokens)}i", *tokens))
    response.raw_output_contents.append(struct.pack("<i", len(tokens)))
    return bytes(answer.SerializeToString())


def _head(number: int) -> bytes:
    return frames.frame(frames.HEADERS, frames.END_HEADERS, number, _HEAD)


def _trailers(number: int) -> bytes:
    return frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, number, _TRAILERS)


def _framed(number: int, message: bytes) -> bytes:
    """`message` in DATA frames of the usual size."""
    raw = struct.pack(">BL", 0, len(message)) + message
    pieces = [raw[at : at + _FRAME_BYTES] for at in range(0, len(raw), _FRAME_BYTES)]
    return b"".join(frames.frame(frames.DATA, 0, number, piece) for piece in pieces)
