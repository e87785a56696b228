"""Batches to embed: their messages, and the call that sends one batch to Triton."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from orchestrator.core.errors import GatewayError
from orchestrator.triton import errors
from orchestrator.triton.messages import service_pb2
from orchestrator.triton.transport import INTERNAL, OK, Call, Metadata, Status, Transport

EMBEDDING = "embedding"
_ONE = struct.pack("<i", 1)


def embed_request(model: str, request_id: str, rows: Sequence[Sequence[int]]) -> bytes:
    """Returns a serialised `ModelInferRequest` of one batch of token ids, padded on the right.

    Encoded by hand, because most of it is the same for all batches of a shape, and the library's
    objects for it would cost more than the ids.
    """
    width = max(map(len, rows))
    ids: list[int] = []
    mask: list[bytes] = []
    for row in rows:
        ids += row
        padding = width - len(row)
        ids += [0] * padding
        mask.append(_ONE * len(row) + bytes(4 * padding))
    named = service_pb2.ModelInferRequest(model_name=model, id=request_id).SerializeToString()
    before, between = _frame(len(rows), width)
    return b"".join((named, before, struct.pack(f"<{len(ids)}i", *ids), between, *mask))


def read_rows(answer: bytes) -> list[memoryview]:
    """The vectors in a serialised `ModelInferResponse`: float32 little endian, one view a row."""
    response = service_pb2.ModelInferResponse.FromString(answer)
    for index, output in enumerate(response.outputs):
        if output.name == EMBEDDING:
            rows, width = output.shape[0], output.shape[1] * 4
            raw = memoryview(response.raw_output_contents[index])
            return [raw[start : start + width] for start in range(0, rows * width, width)]
    raise ValueError(f"the response has no output `{EMBEDDING}`")


class EmbedCall:
    """One batch in flight. If its reader is cancelled, the call still runs to its end."""

    __slots__ = (
        "_answers", "_given_up", "_id", "_on_end", "_reader", "_rpc",
        "answered_at", "model", "over",
    )  # fmt: skip

    def __init__(
        self,
        model: str,
        request_id: str,
        *,
        on_end: Callable[[EmbedCall], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.model = model
        self.answered_at = 0.0
        """When the answer came, by `time.monotonic()`; 0 if none has come."""
        self.over: asyncio.Future[None] = loop.create_future()
        """Done when the call has ended in the engine."""
        self._given_up = False
        self._id = request_id
        self._on_end = on_end
        self._answers: list[bytes] = []
        self._reader: asyncio.Future[bytes] = loop.create_future()
        self._rpc: Call | None = None

    def start(
        self, transport: Transport, request: bytes, *, metadata: Metadata, timeout_s: float
    ) -> None:
        """Sends `request`."""
        self._rpc = transport.start(
            "ModelInfer",
            request,
            metadata=metadata,
            timeout_s=timeout_s,
            on_message=self._answers.append,
            on_end=self._end,
        )

    async def answer(self) -> bytes:
        """Waits for the serialised response. Raises: GatewayError."""
        return await self._reader

    def give_up(self) -> None:
        """Drops the call, because the engine is considered dead. The reader gets a 503."""
        self._given_up = True
        self._fail(errors.unavailable())
        if self._rpc is not None:
            self._rpc.cancel()

    def _end(self, status: Status) -> None:
        if status.code == OK and len(self._answers) == 1:
            self.answered_at = time.monotonic()
        self.over.set_result(None)
        self._on_end(self)
        if self.answered_at:
            if not self._reader.done():
                self._reader.set_result(self._answers[0])
        elif not self._given_up:
            if status.code == OK:
                count = len(self._answers)
                status = Status(INTERNAL, f"{count} answers to a call that has one")
            self._fail(errors.from_status(status, model=self.model, request_id=self._id))

    def _fail(self, error: GatewayError) -> None:
        if not self._reader.done():
            self._reader.set_exception(error)


@lru_cache(maxsize=256)
def _frame(rows: int, width: int) -> tuple[bytes, bytes]:
    """The bytes before the ids and before the mask, the same in all requests of a shape."""
    size = 4 * rows * width
    request = service_pb2.ModelInferRequest()
    for name in ("input_ids", "attention_mask"):
        request.inputs.add(name=name, datatype="INT32", shape=[rows, width])
    request.outputs.add(name=EMBEDDING)
    contents = service_pb2.ModelInferRequest(raw_input_contents=[bytes(size)])
    between = contents.SerializeToString()[:-size]
    return request.SerializeToString() + between, between
