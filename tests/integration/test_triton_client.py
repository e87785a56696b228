"""The client against a real tritonserver whose model does what the prompt says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import (
    GatewayError,
    ModelUnavailable,
    Overloaded,
    UpstreamFailed,
    UpstreamTimeout,
)
from orchestrator.core.request import SamplingParams
from orchestrator.triton.client import Timeouts, TritonClient, TritonEndpoint
from orchestrator.triton.contract import GenerateCall
from orchestrator.triton.probe import Probe, ProbeError
from orchestrator.triton.stream import TokenStream
from tests.integration.conftest import SupervisedTriton
from tests.integration.scripted.repository import END_ID, ScriptedRepository, script


@dataclass
class Scripted:
    endpoint: TritonEndpoint
    repository: ScriptedRepository
    server_id: str


@pytest.fixture
def scripted(triton_scripted: tuple[SupervisedTriton, ScriptedRepository]) -> Scripted:
    triton, repository = triton_scripted
    return Scripted(triton.endpoint, repository, triton.supervisor.endpoint.server_id)


@pytest.fixture(params=["http2", "grpc"])
async def client(scripted: Scripted, request: pytest.FixtureRequest) -> AsyncIterator[TritonClient]:
    endpoint = replace(scripted.endpoint, transport=request.param)
    # The tests use the same ids whatever the transport.
    scripted.repository.log.write_text("")
    made = TritonClient(endpoint, Timeouts(request_s=30, cancel_drain_s=2))
    yield made
    await made.close()


def call(request_id: str, prompt: str, max_tokens: int = 1000) -> GenerateCall:
    return GenerateCall(
        model="scripted",
        request_id=request_id,
        token_ids=list(prompt.encode()),
        max_tokens=max_tokens,
        end_id=END_ID,
        pad_id=None,
        extra_end_ids=(),
        sampling=SamplingParams(),
        vocab_size=END_ID + 1,
        reports_finish_reason=True,
    )


async def read(stream: TokenStream) -> tuple[bytes, str | None]:
    text, reason = b"", None
    while (chunk := await stream.next_chunk(20)) is not None:
        text += bytes(chunk.token_ids)
        reason = chunk.finish_reason or reason
        if chunk.final:
            break
    return text, reason


async def until(condition: Any, within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # another process changes it
            await asyncio.sleep(0.02)


async def test_tokens_come_in_order_and_the_end_says_why(client: TritonClient) -> None:
    assert await read(client.generate(call("c-1", script(emit="hello")))) == (b"hello", "stop")
    text, reason = await read(client.generate(call("c-2", script(emit="hello"), 3)))
    assert (text, reason) == (b"hel", "length")
    await until(lambda: client.in_flight == 0)


async def test_many_generations_keep_apart(client: TritonClient) -> None:
    prompts = [script(emit=f"answer {number} ", repeat=5) for number in range(40)]
    streams = [client.generate(call(f"m-{n}", prompt)) for n, prompt in enumerate(prompts)]
    answers = await asyncio.gather(*(read(stream) for stream in streams))
    assert [text for text, _ in answers] == [
        f"answer {number} ".encode() * 5 for number in range(40)
    ]


async def test_a_stop_ends_the_engine_and_frees_the_reader_at_once(
    client: TritonClient, scripted: Scripted
) -> None:
    stream = client.generate(call("s-1", script(emit="x", repeat=500, delay_ms=20)))
    await stream.next_chunk(10)
    stream.stop()
    stream.stop()
    assert await stream.next_chunk(10) is None
    await until(lambda: client.in_flight == 0)
    events = scripted.repository.events("s-1")
    stopped_at = next(event["at"] for event in events if event["event"] == "stop")
    late = [event for event in events if event["event"] == "token" and event["at"] > stopped_at]
    assert len(late) <= 1
    assert events[-1] == {**events[-1], "event": "final", "reason": "cancelled"}


async def test_a_reader_that_is_cancelled_does_not_cut_the_call(
    client: TritonClient, scripted: Scripted
) -> None:
    stream = client.generate(call("s-2", script(emit="x", repeat=500, delay_ms=20)))
    await stream.next_chunk(10)
    reader = asyncio.create_task(stream.next_chunk())
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    chunk = await stream.next_chunk(10)
    assert chunk is not None
    assert bytes(chunk.token_ids) == b"x"
    stream.stop()
    await until(lambda: client.in_flight == 0)
    assert scripted.repository.events("s-2")[-1]["event"] == "final"


async def test_a_stop_right_after_the_start_still_ends_the_engine(
    client: TritonClient, scripted: Scripted
) -> None:
    for number in range(20):
        client.generate(call(f"s-3-{number}", script(emit="x", repeat=500, delay_ms=20))).stop()
    await until(lambda: client.in_flight == 0)
    events = scripted.repository.events("s-3-")
    started = sum(event["event"] == "start" for event in events)
    assert started == sum(event["event"] == "final" for event in events) <= 20
    assert sum(event["event"] == "token" for event in events) < 20 * 100


async def test_an_engine_that_ignores_the_stop_is_cut(client: TritonClient) -> None:
    stream = client.generate(call("s-4", script(emit="x", repeat=300, delay_ms=20, hang_at=3)))
    await stream.next_chunk(10)
    stream.stop()
    assert client.in_flight == 1
    await until(lambda: client.in_flight == 0)


async def test_the_engines_text_reaches_the_log_and_never_the_caller(
    client: TritonClient, caplog: pytest.LogCaptureFixture
) -> None:
    stream = client.generate(call("e-1", script(emit="hello", fail_at=2)))
    with pytest.raises(UpstreamFailed) as caught:
        await read(stream)
    assert "secret" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "scripted fault" in caplog.text


async def test_a_python_traceback_of_the_backend_stays_inside(client: TritonClient) -> None:
    stream = client.generate(call("e-2", script(raise_in_execute="secret in the traceback")))
    with pytest.raises(GatewayError) as caught:
        await read(stream)
    assert "secret" not in str(caught.value)


async def test_no_token_in_time_is_a_timeout(client: TritonClient) -> None:
    stream = client.generate(call("t-1", script(emit="late", first_delay_ms=1500)))
    with pytest.raises(UpstreamTimeout):
        await stream.next_chunk(0.3)
    stream.stop()


async def test_an_unknown_model_is_unavailable(client: TritonClient) -> None:
    asked = call("u-1", "hello")
    stream = client.generate(GenerateCall(**{**_fields(asked), "model": "nobody"}))
    with pytest.raises(ModelUnavailable):
        await read(stream)


async def test_without_the_token_nothing_is_answered(scripted: Scripted) -> None:
    stranger = TritonClient(TritonEndpoint(scripted.endpoint.url))
    with pytest.raises(GatewayError):
        await read(stranger.generate(call("x-1", "hello")))
    assert not await stranger.model_ready("scripted")
    await stranger.close()


async def test_giving_up_frees_every_reader_with_a_503(client: TritonClient) -> None:
    streams = [
        client.generate(call(f"g-{number}", script(emit="x", hang_at=1))) for number in range(3)
    ]
    for stream in streams:
        assert await stream.next_chunk(10) is not None
    client.fail_in_flight("scripted")
    for stream in streams:
        with pytest.raises(ModelUnavailable):
            await stream.next_chunk(10)
    await until(lambda: client.in_flight == 0)


async def test_a_probe_knows_its_server(client: TritonClient, scripted: Scripted) -> None:
    await Probe(client, generate=["scripted"], embed=[], server_id=scripted.server_id)()
    with pytest.raises(ProbeError, match="another Triton"):
        await Probe(client, generate=["scripted"], embed=[], server_id="somebody else")()


async def test_a_probe_does_not_ask_models_that_are_not_loaded(client: TritonClient) -> None:
    probe = Probe(client, generate=["scripted", "not-built"], embed=["nor-this"])
    await probe()
    assert await probe.model_answers("scripted", 5)
    assert not await probe.model_answers("not-built", 5)


async def test_nobody_there_is_unavailable_at_once(tmp_path: Path) -> None:
    lonely = TritonClient(TritonEndpoint(f"unix:{tmp_path}/nothing"))
    with pytest.raises(ModelUnavailable):
        await read(lonely.generate(call("n-1", "hello")))
    await lonely.close()


def _fields(asked: GenerateCall) -> dict[str, Any]:
    return {one.name: getattr(asked, one.name) for one in fields(asked)}


async def test_embeddings_beyond_the_queue_are_refused_and_the_others_answered(
    triton_demo: SupervisedTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.triton.client.MAX_EMBED_CALLS", 3)
    made = TritonClient(triton_demo.endpoint)
    answers = await asyncio.gather(
        *(made.embed("demo-embed", f"o-{number}", [[1, 2, 3]]) for number in range(8)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(refused) == 5
    assert all(len(answer) == 1 for answer in answers if isinstance(answer, list))
    assert len(await made.embed("demo-embed", "o-9", [[1, 2, 3]])) == 1
    await made.close()
