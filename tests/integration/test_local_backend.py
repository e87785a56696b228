"""What the local backend tells of the engine's work beside the answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from orchestrator.backends import ServedModel
from orchestrator.backends.local import LocalBackend
from orchestrator.backends.placement import single
from orchestrator.catalogue import load_catalogue
from orchestrator.core.events import Completion, fold
from orchestrator.core.messages import Message, TextPart
from orchestrator.core.request import ChatPrompt, GenerationRequest, SamplingParams, TextPrompt
from orchestrator.manifest import read_manifest, served_version
from orchestrator.rendering import Renderer
from orchestrator.triton.client import TritonClient
from tests.integration.conftest import SupervisedTriton

LONG = TextPrompt("Once upon a time there was a small town by the river. " * 8)


class Local:
    """A backend and the model that it serves."""

    def __init__(self, client: TritonClient, served: ServedModel) -> None:
        self._backend = LocalBackend(single(client), first_token_timeout_s=30)
        self.served = served
        self._count = 0

    async def answer(self, prompt: Any, **more: Any) -> Completion:
        self._count += 1
        greedy = {"sampling": SamplingParams(temperature=0), "max_tokens": 6, **more}
        request = GenerationRequest("demo/chat", prompt, **greedy)
        prepared = await self._backend.prepare(self.served, request)
        run = self._backend.generate(prepared, f"local-{self._count}")
        completion = await fold(run)
        assert (await run.produced()).cached_tokens == completion.usage.cached_tokens
        return completion


@pytest_asyncio.fixture(loop_scope="session")
async def local(triton_demo: SupervisedTriton) -> AsyncIterator[Local]:
    settings = triton_demo.settings
    (model,) = [one for one in load_catalogue(settings.catalogue).models if one.id == "demo/chat"]
    directory = served_version(settings.triton.repository / model.name)
    assert directory is not None
    renderer = Renderer(directory, parser=model.parser)
    served = ServedModel(model, read_manifest(directory), renderer, SamplingParams())
    client = TritonClient(triton_demo.endpoint)
    yield Local(client, served)
    await client.close()


async def test_each_choice_has_the_times_of_its_engine_work(local: Local) -> None:
    began_at = time.time_ns()
    completion = await local.answer(TextPrompt("Hello"), n=2)
    ended_at = time.time_ns()
    assert len(completion.timings) == 2
    for told in completion.timings:
        order = [
            told.arrived_at_ns, told.scheduled_at_ns, told.first_token_at_ns, told.last_token_at_ns,
        ]  # fmt: skip
        assert order == sorted(order)
        assert began_at <= order[0]
        assert order[-1] <= ended_at


async def test_cached_tokens_are_whole_blocks_and_never_the_whole_prompt(local: Local) -> None:
    first = await local.answer(LONG)
    again = await local.answer(LONG)
    size = local.served.manifest.tokens_per_block
    assert first.usage.cached_tokens == 0
    assert 0 < again.usage.cached_tokens < again.usage.prompt_tokens
    assert again.usage.cached_tokens % size == 0 or (
        again.usage.cached_tokens == again.usage.prompt_tokens - 1
    )
    assert again.usage.prompt_tokens - again.usage.cached_tokens <= size
    assert again.choices == first.choices


async def test_without_a_wish_there_are_no_log_probabilities(local: Local) -> None:
    prompt = ChatPrompt((Message("user", (TextPart("Hello"),)),))
    assert (await local.answer(prompt)).choices[0].logprobs == []
    told = (await local.answer(prompt, top_logprobs=2)).choices[0].logprobs
    assert [len(token.top) for token in told] == [2] * len(told)
    assert told[0].raw == local.served.renderer.token_bytes(told[0].token_id)
