"""Batches to embed, and calls whose caller or engine goes away."""

from __future__ import annotations

import asyncio
import struct
from array import array
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from orchestrator.core.errors import ModelUnavailable, Overloaded, UpstreamFailed
from orchestrator.triton.client import Timeouts, TritonClient, TritonEndpoint
from orchestrator.triton.embedding import embed_request, read_rows
from orchestrator.triton.transport import CANCELLED, INTERNAL, OK, Metadata, Status

ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1, max_size=9)


def by_the_library(model: str, request_id: str, rows: Sequence[Sequence[int]]) -> bytes:
    width = max(len(row) for row in rows)
    ids, mask = array("i"), array("i")
    for row in rows:
        padding = [0] * (width - len(row))
        ids.extend([*row, *padding])
        mask.extend([1] * len(row) + padding)
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for name, raw in (("input_ids", ids), ("attention_mask", mask)):
        request.inputs.add(name=name, datatype="INT32", shape=[len(rows), width])
        request.raw_input_contents.append(raw.tobytes())
    request.outputs.add(name="embedding")
    return bytes(request.SerializeToString())


@given(model=st.text(min_size=1, max_size=200), request_id=st.text(max_size=200), rows=ROWS)
def test_a_batch_is_written_as_protobuf_writes_it(
    model: str, request_id: str, rows: list[list[int]]
) -> None:
    assert embed_request(model, request_id, rows) == by_the_library(model, request_id, rows)


def test_a_large_batch_is_written_as_protobuf_writes_it() -> None:
    rows = [list(range(number + 1)) for number in range(300)]
    assert embed_request("embed", "r", rows) == by_the_library("embed", "r", rows)


def test_rows_are_padded_on_the_right_and_masked() -> None:
    sent = service_pb2.ModelInferRequest.FromString(embed_request("embed", "r", [[1, 2, 3], (4,)]))
    assert [list(tensor.shape) for tensor in sent.inputs] == [[2, 3], [2, 3]]
    ids, mask = sent.raw_input_contents
    assert struct.unpack("<6i", ids) == (1, 2, 3, 4, 0, 0)
    assert struct.unpack("<6i", mask) == (1, 1, 1, 1, 0, 0)


def answer(*vectors: Sequence[float]) -> bytes:
    message = service_pb2.ModelInferResponse()
    # Where the output stands is the server's choice.
    message.outputs.add(name="other", datatype="FP32", shape=[1])
    message.raw_output_contents.append(b"none")
    message.outputs.add(name="embedding", datatype="FP32", shape=[len(vectors), len(vectors[0])])
    raw = b"".join(struct.pack(f"<{len(one)}f", *one) for one in vectors)
    message.raw_output_contents.append(raw)
    return bytes(message.SerializeToString())


def test_vectors_are_read_in_their_order() -> None:
    rows = read_rows(answer((1, 2), (3, 4)))
    assert [struct.unpack("<2f", row) for row in rows] == [(1.0, 2.0), (3.0, 4.0)]


def test_an_answer_without_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="no output `embedding`"):
        read_rows(service_pb2.ModelInferResponse().SerializeToString())


class Wire:
    """A transport whose calls answer when they are told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.calls: list[WireCall] = []

    def start(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Metadata,
        timeout_s: float,
        on_message: Callable[[bytes], None],
        on_end: Callable[[Status], None],
    ) -> WireCall:
        del metadata, timeout_s
        self.sent.append((method, request))
        self.calls.append(WireCall(on_message, on_end))
        return self.calls[-1]

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata, timeout_s: float
    ) -> bytes:
        raise NotImplementedError

    async def close(self) -> None:
        for call in self.calls:
            call.cancel()


class WireCall:
    def __init__(
        self, on_message: Callable[[bytes], None], on_end: Callable[[Status], None]
    ) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self.ended = False

    def end(self, *answers: bytes, code: int = OK) -> None:
        if not self.ended:
            self.ended = True
            for one in answers:
                self._on_message(one)
            self._on_end(Status(code))

    def cancel(self) -> None:
        self.end(code=CANCELLED)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr("orchestrator.triton.client._transport", lambda endpoint: made)
    return made


@pytest.fixture
def client(wire: Wire) -> TritonClient:
    del wire
    return TritonClient(TritonEndpoint("nowhere:1"), Timeouts(cancel_drain_s=0.05))


Asking = asyncio.Task[list[memoryview]]


async def asking(client: TritonClient, model: str = "embed") -> Asking:
    task = asyncio.create_task(client.embed(model, "r", [[1, 2]]))
    await asyncio.sleep(0)
    return task


async def test_one_call_goes_out_and_its_vectors_come_back(
    client: TritonClient, wire: Wire
) -> None:
    task = await asking(client)
    assert wire.sent == [("ModelInfer", embed_request("embed", "r", [[1, 2]]))]
    assert (client.in_flight, client.last_answer_at("embed")) == (1, 0.0)
    wire.calls[0].end(answer((1, 2)))
    (row,) = await task
    assert struct.unpack("<2f", row) == (1.0, 2.0)
    assert client.in_flight == 0
    assert client.last_answer_at("embed") > 0


async def test_a_caller_who_leaves_leaves_the_call_to_its_end(
    client: TritonClient, wire: Wire
) -> None:
    task = await asking(client)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (client.in_flight, wire.calls[0].ended) == (1, False)
    wire.calls[0].end(answer((1, 2)))
    assert client.in_flight == 0
    assert client.last_answer_at("embed") > 0


async def test_a_call_that_fails_after_its_caller_left_is_only_logged(
    client: TritonClient, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    task = await asking(client)
    task.cancel()
    await asyncio.wait([task])
    wire.calls[0].end(code=INTERNAL)
    assert "triton refused r for model embed" in caplog.text


async def test_what_is_given_up_on_is_cut_and_answered_at_once(
    client: TritonClient, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    given_up, other = await asking(client), await asking(client, "other")
    client.fail_in_flight("embed")
    with pytest.raises(ModelUnavailable):
        await given_up
    assert [call.ended for call in wire.calls] == [True, False]
    assert (client.in_flight, caplog.text) == (1, "")
    wire.calls[1].end(answer((1, 2)))
    assert len(await other) == 1


@pytest.mark.parametrize("answers", [(), (b"", b"")])
async def test_a_call_that_has_not_one_answer_has_failed(
    client: TritonClient, wire: Wire, answers: tuple[bytes, ...]
) -> None:
    task = await asking(client)
    wire.calls[0].end(*answers)
    with pytest.raises(UpstreamFailed):
        await task
    assert client.last_answer_at("embed") == 0.0


async def test_so_many_calls_wait_and_no_more(
    client: TritonClient, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.triton.client.MAX_EMBED_CALLS", 1)
    task = await asking(client)
    with pytest.raises(Overloaded):
        await client.embed("embed", "r", [[1]])
    wire.calls[0].end(answer((1, 2)))
    await task


async def test_closing_waits_for_the_answers_and_not_for_ever(
    client: TritonClient, wire: Wire
) -> None:
    quick, endless = await asking(client), await asking(client)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    wire.calls[0].end(answer((1, 2)))
    await closing
    assert len(await quick) == 1
    with pytest.raises(ModelUnavailable):
        await endless
