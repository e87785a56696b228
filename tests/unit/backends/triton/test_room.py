"""How many tokens an answer may have beside its prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from orchestrator.backends.triton.backend import TritonBackend
from orchestrator.backends.triton.placement import single
from orchestrator.backends.triton.prefix_salts import PrefixSalts
from orchestrator.backends.triton.served import ServedModel
from orchestrator.contract.catalogue import EngineRecipe, Model
from orchestrator.contract.manifest import Manifest
from orchestrator.core.errors import ContextLengthExceeded
from orchestrator.core.request import GenerationRequest, SamplingParams, TextPrompt
from orchestrator.rendering import Renderer
from orchestrator.triton.client import TritonClient, TritonEndpoint

CONTEXT_TOKENS = 16
MODEL = Model("acme/chat", "chat", "generate", CONTEXT_TOKENS, EngineRecipe("-"))
Room = Callable[[int, int | None, bool, bool], Awaitable[int]]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    """The most tokens for a prompt of so many words, a limit, and whether request or box clamps."""
    tokenizer = Tokenizer(models.WordLevel({"hello": 0}, unk_token="hello"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    manifest = Manifest(
        tmp_path, MODEL.id, "generate", "cpu", 4, 64, 64, 16, 0, (), None, False, False, 2
    )
    renderer = Renderer(tmp_path, parser="plain")
    served = ServedModel(MODEL, manifest, renderer, SamplingParams())
    client = TritonClient(TritonEndpoint("unix:/nonexistent"))

    async def most(words: int, limit: int | None, asks: bool, box: bool) -> int:
        backend = TritonBackend(
            lambda _: served,
            single(client),
            PrefixSalts(b""),
            first_token_timeout_s=1,
            clamps_max_tokens=box,
        )
        prompt = TextPrompt("hello " * words)
        request = GenerationRequest(MODEL.id, prompt, max_tokens=limit, clamps=asks)
        return (await backend.prepare(MODEL, request)).max_tokens

    yield most
    await client.close()


@pytest.mark.parametrize(("asks", "box"), [(True, False), (False, True)])
async def test_a_limit_above_the_room_is_the_room_where_it_clamps(
    room: Room, asks: bool, box: bool
) -> None:
    assert await room(6, 32_000, asks, box) == CONTEXT_TOKENS - 6
    assert await room(6, 3, asks, box) == 3
    assert await room(6, None, asks, box) == CONTEXT_TOKENS - 6
    with pytest.raises(ContextLengthExceeded, match="the prompt has 16 and 5 were asked for"):
        await room(CONTEXT_TOKENS, 5, asks, box)


async def test_elsewhere_it_is_refused(room: Room) -> None:
    assert await room(6, 10, False, False) == 10
    with pytest.raises(ContextLengthExceeded, match="the prompt has 6 and 11 were asked for"):
        await room(6, 11, False, False)
