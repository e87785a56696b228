"""When a model is asked for its answer in one response, and when it is not."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from orchestrator.contract.manifest import Manifest
from orchestrator.core.request import SamplingParams
from orchestrator.models import selftest
from orchestrator.triton.client import Timeouts, TritonClient, TritonEndpoint
from orchestrator.triton.contract import GenerateCall
from orchestrator.triton.stream import TokenStream
from orchestrator.triton.transport import OK, Metadata, Status

ANSWER = (3, 4, 5, 6)


@dataclass
class Engine:
    """A transport whose engine answers `ANSWER` when the loop comes round."""

    before: tuple[int, ...] = ()
    """What a single response begins with, wrongly."""
    refuses: bool = False
    waits: bool = False
    """Nothing is answered."""
    asked: list[bool] = field(default_factory=list)
    """Whether each request was to be streamed."""

    def start(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Metadata,
        timeout_s: float,
        on_message: Callable[[bytes], None],
        on_end: Callable[[Status], None],
    ) -> Engine:
        del method, metadata, timeout_s
        asked = service_pb2.ModelInferRequest.FromString(request)
        names = [tensor.name for tensor in asked.inputs]
        raw = dict(zip(names, asked.raw_input_contents, strict=True))
        streaming = raw["streaming"] == b"\x01"
        assert ("exclude_input_in_output" in raw) != streaming
        self.asked.append(streaming)
        (most,) = struct.unpack("<i", raw["request_output_len"])
        if self.waits:
            return self
        answers = [answer(ANSWER[:most], error=self.refuses)]
        if streaming:
            answers = [answer((token,)) for token in ANSWER[:most]]
        elif self.before:
            answers = [answer((*self.before, *ANSWER[:most]))]
        loop = asyncio.get_running_loop()
        for one in answers:
            loop.call_soon(on_message, one)
        loop.call_soon(on_end, Status(OK))
        return self

    async def unary(self, *_: Any, **__: Any) -> bytes:
        raise NotImplementedError

    def cancel(self) -> None:
        """Nothing is under way."""

    async def close(self) -> None:
        """Nothing is open."""


def answer(tokens: tuple[int, ...], *, error: bool = False) -> bytes:
    message = service_pb2.ModelStreamInferResponse()
    if error:
        message.error_message = "streaming only"
        return bytes(message.SerializeToString())
    response = message.infer_response
    for name, values in (("output_ids", tokens), ("sequence_length", (len(tokens),))):
        response.outputs.add(name=name, datatype="INT32", shape=[1, 1, len(values)])
        response.raw_output_contents.append(struct.pack(f"<{len(values)}i", *values))
    response.parameters["triton_final_response"].bool_param = ANSWER[-1] in tokens
    return bytes(message.SerializeToString())


def client_of(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, *, processes: int = 1
) -> TritonClient:
    monkeypatch.setattr("orchestrator.triton.client._transport", lambda _: engine)
    timeouts = Timeouts(silence_s=1.0, cancel_drain_s=0.01)
    return TritonClient(TritonEndpoint("nowhere:1"), timeouts, processes=processes)


def manifest(directory: Path) -> Manifest:
    return Manifest(
        directory=directory,
        model="m",
        task="generate",
        target="cpu",
        max_batch_size=8,
        max_input_len=10,
        max_seq_len=20,
        vocab_size=10,
        end_id=9,
        extra_end_ids=(),
        pad_id=None,
        reports_finish_reason=False,
        supports_min_p=True,
        dimension=0,
    )


def call(max_tokens: int = 4, *, whole: bool = True) -> GenerateCall:
    return GenerateCall(
        model="m",
        request_id="r",
        token_ids=(1,),
        max_tokens=max_tokens,
        end_id=9,
        pad_id=None,
        extra_end_ids=(),
        sampling=SamplingParams(),
        vocab_size=10,
        reports_finish_reason=False,
        whole=whole,
    )


async def read(stream: TokenStream) -> list[int]:
    tokens: list[int] = []
    while (chunk := await stream.next_chunk()) is not None:
        tokens += chunk.token_ids
    return tokens


async def test_a_model_that_passed_its_test_answers_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = Engine()
    client = client_of(monkeypatch, engine)
    assert await read(client.generate(call())) == [*ANSWER]
    await selftest.replay(client, "m", manifest(tmp_path))
    assert engine.asked == [True, True, False]
    assert await read(client.generate(call())) == [*ANSWER]
    assert await read(client.generate(call(whole=False))) == [*ANSWER]
    assert engine.asked[3:] == [False, True]


@pytest.mark.parametrize("engine", [Engine(before=(1,)), Engine(refuses=True)], ids=str)
async def test_a_model_whose_single_response_is_wrong_is_asked_token_by_token(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = client_of(monkeypatch, engine)
    await selftest.replay(client, "m", manifest(tmp_path))
    assert caplog.text.count("is asked token by token") == 1
    assert await read(client.generate(call())) == [*ANSWER]
    assert engine.asked == [True, False, True]


async def test_silence_is_short_and_never_everybodys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = Engine()
    client = client_of(monkeypatch, engine, processes=2)
    await selftest.replay(client, "m", manifest(tmp_path))
    engine.waits = True
    # Half of the batch of 8, for two processes.
    streams = [client.generate(call()) for _ in range(4)]
    assert [stream.streaming for stream in streams] == [False, False, True, True]
    client.fail_in_flight("m")
    for stream in streams:
        stream._end(Status(OK))
    long = client.generate(call(10**9))
    assert long.streaming
    assert not client.generate(call()).streaming


async def test_the_latest_answer_is_known_while_it_still_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = client_of(monkeypatch, Engine(waits=True))
    stream = client.generate(call())
    assert client.last_answer_at() == client.last_answer_at("m") == 0.0
    stream._take(answer((3,)))
    answered_at = client.last_answer_at("m")
    assert 0 < answered_at == client.last_answer_at()
    assert client.last_answer_at("another") == 0.0
    stream._end(Status(OK))
    assert client.last_answer_at("m") == answered_at
