"""Answers that nobody sees before their end: one response of the engine, and nothing else lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from orchestrator.backends.protocol import GenerationRun
from orchestrator.backends.triton.backend import TritonBackend
from orchestrator.backends.triton.placement import single
from orchestrator.backends.triton.prefix_salts import PrefixSalts
from orchestrator.backends.triton.served import ServedModel
from orchestrator.contract.catalogue import load_catalogue
from orchestrator.core.events import Completion, fold
from orchestrator.core.request import GenerationRequest, SamplingParams, TextPrompt
from orchestrator.models.built import read_built
from orchestrator.triton.client import Timeouts, TritonClient
from orchestrator.triton.stream import TokenStream
from orchestrator.triton.transport import Status
from tests.integration.conftest import SupervisedTriton
from tests.integration.scripted.repository import ScriptedRepository, script
from tests.integration.serving import wait_until
from tests.produced import produced

SALTS = PrefixSalts(b"of the tests")


class Whole:
    """A backend over a scripted model, and what its client received."""

    def __init__(
        self,
        client: TritonClient,
        served: ServedModel,
        repository: ScriptedRepository,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.client = client
        self.repository = repository
        self.responses: dict[str, int] = {}
        self._model = served.model
        self._backend = TritonBackend(
            lambda _: served, single(client), SALTS, first_token_timeout_s=60
        )
        self._count = 0
        take = TokenStream._take

        def counted(stream: TokenStream, answer: bytes) -> None:
            key = stream.call.request_id
            self.responses[key] = self.responses.get(key, 0) + 1
            take(stream, answer)

        monkeypatch.setattr(TokenStream, "_take", counted)

    async def learn(self) -> None:
        """One answer by the token, from which the client knows the model's pace: 2 ms or more."""
        run = await self.run(script(emit="x" * 50, delay_ms=2), whole=False)
        await fold(run)
        await self._idle()

    async def run(self, prompt: str, **more: Any) -> GenerationRun:
        self._count += 1
        self.request_id = f"whole-{self._count}"
        asked = {"max_tokens": 20, "sampling": SamplingParams(temperature=0), "whole": True, **more}
        request = GenerationRequest("scripted/scripted", TextPrompt(prompt), **asked)
        return (await self._backend.prepare(self._model, request)).start(self.request_id)

    async def answer(self, prompt: str, **more: Any) -> tuple[Completion, int]:
        """The answer, and in how many responses it came."""
        run = await self.run(prompt, **more)
        completion = await fold(run)
        assert await produced(run) == completion.usage
        await self._idle()
        counts = [n for key, n in self.responses.items() if key.startswith(f"{self.request_id}-")]
        return completion, sum(counts)

    async def _idle(self) -> None:
        """Returns when every call is over, from which the client learns."""
        await asyncio.to_thread(
            wait_until, lambda: not self.client.in_flight, 10, "every call is over"
        )


@pytest_asyncio.fixture(loop_scope="session")
async def whole(
    triton_scripted: tuple[SupervisedTriton, ScriptedRepository], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Whole]:
    triton, repository = triton_scripted
    repository.log.write_text("")
    (model,) = load_catalogue(repository.catalogue).models
    client = TritonClient(triton.endpoint, Timeouts(request_s=30, silence_s=5))
    client.allow_whole("scripted", 4)
    made = Whole(client, read_built(repository.path, model), repository, monkeypatch)
    await made.learn()
    yield made
    await client.close()


@pytest.mark.parametrize(
    ("emit", "max_tokens"), [("hello", 20), ("hello", 3), ("", 5), ("h\u00e4llo \u4e16", 20)]
)
async def test_one_response_says_what_many_say(whole: Whole, emit: str, max_tokens: int) -> None:
    prompt = script(emit=emit)
    streamed, many = await whole.answer(prompt, max_tokens=max_tokens, whole=False)
    at_once, one = await whole.answer(prompt, max_tokens=max_tokens)
    assert (at_once.choices, at_once.usage) == (streamed.choices, streamed.usage)
    assert one == 1
    assert many == min(len(emit.encode()), max_tokens) + 1


async def test_every_choice_is_one_response(whole: Whole) -> None:
    completion, responses = await whole.answer(script(emit="hello"), n=3)
    assert len(completion.choices) == responses == 3


@pytest.mark.parametrize(
    "more",
    [{"stop": ("lo",)}, {"parallel_tool_calls": False}, {"max_tokens": 4000}],
    ids=["stop string", "one call only", "long"],
)
async def test_what_may_end_early_or_last_is_told_token_by_token(
    whole: Whole, more: dict[str, Any]
) -> None:
    _, responses = await whole.answer(script(emit="hello", delay_ms=5), **more)
    assert responses > 1


async def test_a_slow_model_is_not_asked_to_be_silent(whole: Whole) -> None:
    prompt = script(emit="x" * 12, delay_ms=100)
    for _ in range(2):
        slow, responses = await whole.answer(prompt, max_tokens=400)
    assert slow.usage.completion_tokens == 12
    assert responses == 13


async def test_only_so_many_are_silent_at_once(whole: Whole) -> None:
    runs = [await whole.run(script(emit="hello", delay_ms=20)) for _ in range(6)]
    answers = await asyncio.gather(*(fold(run) for run in runs))
    assert {one.usage.completion_tokens for one in answers} == {5}
    names = {f"whole-{number}-"[:8] for number in range(2, 8)}
    counts = sorted(n for key, n in whole.responses.items() if key[:8] in names)
    assert counts == [1, 1, 1, 1, 6, 6]
    _, responses = await whole.answer(script(emit="hello"))
    assert responses == 1


async def test_the_first_token_timeout_does_not_cut_it(whole: Whole) -> None:
    whole._backend._first_token_timeout_s = 0.5
    completion, responses = await whole.answer(script(emit="late", first_delay_ms=1200))
    assert (completion.usage.completion_tokens, responses) == (4, 1)


async def test_a_reader_who_leaves_stops_the_engine_and_pays_what_it_made(whole: Whole) -> None:
    run = await whole.run(script(emit="x" * 20, delay_ms=200), max_tokens=20)
    reader = asyncio.create_task(run.next())
    await asyncio.sleep(1.0)
    reader.cancel()
    run.stop()
    usage = await produced(run)
    events = whole.repository.events(whole.request_id)
    made = sum(event.get("tokens", 0) for event in events)
    assert 2 <= usage.completion_tokens == made <= 10
    assert events[-1] == {**events[-1], "event": "final", "reason": "cancelled"}


@pytest.mark.parametrize("is_whole", [True, False])
async def test_an_answer_that_was_told_to_its_end_is_over_before_its_call(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    ended = asyncio.Event()
    end = TokenStream._end
    late: list[Callable[[], None]] = []

    def end_later(stream: TokenStream, status: Status) -> None:
        if not stream.call.request_id.startswith("whole-"):
            end(stream, status)
            return
        late.append(partial(end, stream, status))
        ended.set()

    monkeypatch.setattr(TokenStream, "_end", end_later)
    run = await whole.run(script(emit="hello"), whole=is_whole)
    completion = await fold(run)
    run.stop()
    assert run.has_ended
    assert await produced(run) == completion.usage
    await ended.wait()
    await asyncio.sleep(0.2)
    for call in late:
        call()
    # The engine is not asked to stop what it has finished.
    told = [event["event"] for event in whole.repository.events(whole.request_id)]
    assert "final" in told
    assert "stop" not in told
