"""A generation whose engine answers what nobody can read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
from tritonclient.grpc import service_pb2

from orchestrator.core.errors import UpstreamFailed
from orchestrator.core.request import SamplingParams
from orchestrator.triton import contract
from orchestrator.triton.contract import GenerateCall, Guide
from orchestrator.triton.stream import TokenStream
from orchestrator.triton.transport import Metadata, Status

ONE = (1).to_bytes(4, "little")
LESS = (-1).to_bytes(4, "little", signed=True)
CALL = GenerateCall(
    model="m",
    request_id="r",
    token_ids=(1,),
    max_tokens=1,
    end_id=2,
    pad_id=2,
    extra_end_ids=(),
    sampling=SamplingParams(),
    vocab_size=8,
    reports_finish_reason=False,
)


class Wire:
    """A transport that answers with what it is given, at once."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def start(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Metadata,
        timeout_s: float,
        on_message: Callable[[bytes], None],
        on_end: Callable[[Status], None],
    ) -> Wire:
        del method, request, metadata, timeout_s, on_end
        on_message(self._answer)
        return self

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata, timeout_s: float
    ) -> bytes:
        raise NotImplementedError

    def cancel(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


def answer(**outputs: bytes | None) -> bytes:
    """A response with outputs of those names; those of `None` have no content."""
    response = service_pb2.ModelStreamInferResponse()
    for name, raw in outputs.items():
        response.infer_response.outputs.add().name = name
        if raw is not None:
            response.infer_response.raw_output_contents.append(raw)
    return bytes(response.SerializeToString())


@pytest.mark.parametrize(
    "unreadable",
    [
        b"\xff\xff",
        answer(**{contract.OUTPUT_IDS: None}),
        answer(**{contract.OUTPUT_IDS: ONE, contract.SEQUENCE_LENGTH: LESS}),
        answer(**{contract.OUTPUT_IDS: ONE, contract.LOG_PROBS: b"\0"}),
    ],
    ids=["no message", "no content", "negative length", "cut numbers"],
)
async def test_what_cannot_be_read_fails_its_own_call_only(unreadable: bytes) -> None:
    stopped: list[TokenStream] = []
    stream = TokenStream(CALL, on_stop=stopped.append, on_end=_never)
    # Whoever reads from the connection gets no exception.
    stream.start(Wire(unreadable), metadata=(), timeout_s=1.0)
    with pytest.raises(UpstreamFailed, match="cannot be read"):
        await stream.next_chunk()
    assert stopped == [stream]


@pytest.mark.parametrize("guide", [Guide("json_schema", '{"title": "Kaufvertrag"}'), None])
async def test_what_an_engine_says_of_a_guided_request_is_not_logged(
    guide: Guide | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = "the engine broke: grammar {Kaufvertrag}, tokens: Mueller"
    failed = service_pb2.ModelStreamInferResponse(error_message=said).SerializeToString()
    call = replace(CALL, guide=guide)
    stream = TokenStream(call, on_stop=_never, on_end=_never)
    stream.produced = 1
    stream.start(Wire(failed), metadata=(), timeout_s=1.0)
    with pytest.raises(UpstreamFailed) as caught:
        await stream.next_chunk()
    assert "Kaufvertrag" not in str(caught.value)
    assert ("Kaufvertrag" in caplog.text) == (guide is None)
    assert "triton refused r for model m" in caplog.text


def _never(stream: TokenStream) -> None:
    raise AssertionError(stream)


def _told(model: str) -> None:
    assert model == "m"
