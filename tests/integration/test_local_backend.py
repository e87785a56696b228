"""What the local backend tells of the engine's work beside the answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest_asyncio

from orchestrator.backends.triton.backend import TritonBackend
from orchestrator.backends.triton.placement import single
from orchestrator.backends.triton.prefix_salts import PrefixSalts
from orchestrator.backends.triton.served import ServedModel
from orchestrator.contract.catalogue import load_catalogue
from orchestrator.contract.manifest import read_manifest, served_version
from orchestrator.core.events import Completion, fold
from orchestrator.core.messages import Message, TextPart, Tool
from orchestrator.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonFormat,
    SamplingParams,
    TextPrompt,
)
from orchestrator.rendering import Renderer
from orchestrator.triton.client import TritonClient
from tests.integration.conftest import SupervisedTriton
from tests.produced import produced

SALTS = PrefixSalts(b"of the tests")
LONG = TextPrompt("Once upon a time there was a small town by the river. " * 8)


class Local:
    """A backend and the model that it serves."""

    def __init__(self, client: TritonClient, served: ServedModel) -> None:
        self._backend = TritonBackend(
            lambda _: self.served, single(client), SALTS, first_token_timeout_s=30
        )
        self.served = served
        self._count = 0

    async def answer(
        self, prompt: Any, owner: str = "", sharing: tuple[str, ...] = (), **more: Any
    ) -> Completion:
        self._count += 1
        greedy = {"sampling": SamplingParams(temperature=0), "max_tokens": 6, **more}
        request = GenerationRequest("demo/chat", prompt, **greedy)
        prepared = await self._backend.prepare(self.served.model, request, owner, sharing)
        self.last = run = prepared.start(f"local-{self._count}")
        completion = await fold(run)
        assert (await produced(run)).cached_tokens == completion.usage.cached_tokens
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


async def test_an_attempt_that_is_given_up_is_no_part_of_the_answer(local: Local) -> None:
    tool = Tool("get_weather", "The weather of a city.", {"type": "object", "properties": {}})
    prompt = ChatPrompt((Message("user", (TextPart("Hello"),)),), (tool,))
    completion = await local.answer(prompt, response_format=JsonFormat(), max_tokens=200)
    assert isinstance(completion.choices[0].parts[0], TextPart)
    made = await produced(local.last)
    # All that was made was sent, so the waste is what belongs to no answer.
    cost = local.last.cost("failed", sent=True)
    assert cost.usage.completion_tokens == made.completion_tokens
    assert cost.usage.completion_tokens == completion.usage.completion_tokens
    # It began to say something, where only a call would have counted.
    assert 0 < cost.wasted_tokens < 50


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


def story(of: str) -> TextPrompt:
    """A prompt of several blocks that no other test sends."""
    return TextPrompt(f"The tale of {of}. " * 20)


async def test_what_is_cached_of_a_tenants_prompt_is_found_by_no_other(local: Local) -> None:
    prompt = story("the miller")
    first = await local.answer(prompt, "ten_a")
    other = await local.answer(prompt, "ten_b")
    nobodys = await local.answer(prompt)
    again = await local.answer(prompt, "ten_a")
    assert [one.usage.cached_tokens for one in (first, other, nobodys)] == [0, 0, 0]
    assert again.usage.cached_tokens > 0
    assert again.choices == first.choices == other.choices


async def test_tenants_that_name_each_other_share_what_is_cached(local: Local) -> None:
    prompt = story("the weaver")
    await local.answer(prompt, "ten_a", ("ten_b",))
    assert (await local.answer(prompt, "ten_b", ("ten_a",))).usage.cached_tokens > 0
    # One that is not named gets in by no name of its own, and one that names nobody stays out.
    for alone in (("ten_c", ("ten_a",)), ("ten_c", ("ten_a", "ten_b")), ("ten_b", ())):
        assert (await local.answer(prompt, *alone)).usage.cached_tokens == 0


async def test_of_an_engine_that_may_mix_tenants_nothing_is_told(local: Local) -> None:
    salted = local.served
    local.served = replace(salted, manifest=replace(salted.manifest, prefix_cache=""))
    try:
        answers = [await local.answer(story("the baker"), owner) for owner in ("ten_a", "ten_b")]
    finally:
        local.served = salted
    assert [one.usage.cached_tokens for one in answers] == [0, 0]
    assert [one.timings for one in answers] == [(), ()]


async def test_an_operator_may_let_all_tenants_share(local: Local) -> None:
    salted = local.served
    local.served = replace(salted, manifest=replace(salted.manifest, prefix_cache="shared"))
    try:
        await local.answer(story("the smith"), "ten_a")
        assert (await local.answer(story("the smith"), "ten_b")).usage.cached_tokens > 0
    finally:
        local.served = salted


async def test_without_a_wish_there_are_no_log_probabilities(local: Local) -> None:
    prompt = ChatPrompt((Message("user", (TextPart("Hello"),)),))
    assert (await local.answer(prompt)).choices[0].logprobs == []
    told = (await local.answer(prompt, top_logprobs=2)).choices[0].logprobs
    assert [len(token.top) for token in told] == [2] * len(told)
    assert told[0].raw == local.served.renderer.token_bytes(told[0].token_id)
