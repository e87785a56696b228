"""Generations and embeddings that begin on a server which is away, or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.backends.triton.backend import TritonBackend
from orchestrator.backends.triton.placement import Placements, Server, single
from orchestrator.backends.triton.prefix_salts import PrefixSalts
from orchestrator.backends.triton.served import ServedModel
from orchestrator.contract.catalogue import Model, load_catalogue
from orchestrator.core.errors import ModelUnavailable
from orchestrator.core.events import Completion, fold
from orchestrator.core.request import (
    EmbeddingRequest,
    GenerationRequest,
    SamplingParams,
    TextPrompt,
)
from orchestrator.models.built import read_built
from orchestrator.triton.client import TritonClient, TritonEndpoint
from tests.integration.conftest import SupervisedTriton
from tests.produced import produced

PLACES = ("gone", "there")
SALTS = PrefixSalts(b"of the tests")
MODELS = {"demo-chat": PLACES, "demo-embed": PLACES}


class Placed:
    """A backend whose models are on a server of no use, which is asked first, and on a real one."""

    def __init__(self, useless: TritonClient, triton: SupervisedTriton) -> None:
        self.useless = useless
        self.there = TritonClient(triton.endpoint)
        models = load_catalogue(triton.settings.catalogue).models
        repository = triton.settings.triton.repository
        self.models = {one.name: one for one in models}
        self._served = {one.name: read_built(repository, one) for one in models}
        self._placements = Placements(
            [Server("gone", useless), Server("there", self.there)], MODELS
        )
        self._count = 0

    async def completion(self, *, alone: bool = False) -> Completion:
        """What a prompt gets; `alone` from the real server at once."""
        self._count += 1
        request = GenerationRequest(
            "demo/chat", TextPrompt("Hello"), sampling=SamplingParams(temperature=0),
            max_tokens=6, n=2,
        )  # fmt: skip
        backend = self._backend("demo-chat", alone=alone)
        prepared = await backend.prepare(self.models["demo-chat"], request)
        run = prepared.start(f"placed-{self._count}")
        completion = await fold(run)
        assert await produced(run) == completion.usage
        return completion

    async def vectors(self, *, alone: bool = False) -> list[bytes]:
        backend = self._backend("demo-embed", alone=alone)
        request = EmbeddingRequest("demo/embed", ("one text", "another text"))
        prepared = await backend.prepare_embedding(self.models["demo-embed"], request)
        return [bytes(one) for one in await prepared.start("placed").vectors()]

    def served(self, model: Model) -> ServedModel:
        return self._served[model.name]

    def is_out(self, name: str) -> bool:
        """Whether the useless server has been found out."""
        return not self._placements.of(name).replicas[0].ready

    def _backend(self, name: str, *, alone: bool) -> TritonBackend:
        if alone:
            return TritonBackend(self.served, single(self.there), SALTS, first_token_timeout_s=30)
        useless, there = self._placements.of(name).replicas
        # The other one comes a moment later, so that the useless one is what is chosen.
        useless.admit()
        there.ready = False
        backend = TritonBackend(self.served, self._placements, SALTS, first_token_timeout_s=30)
        asyncio.get_running_loop().call_later(0.05, there.admit)
        return backend


@pytest_asyncio.fixture(loop_scope="session")
async def silent(tmp_path: Path) -> AsyncIterator[TritonClient]:
    """A connection to a server that takes everything and says nothing."""
    over = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_unix_server(listen, tmp_path / "silent")
    client = TritonClient(TritonEndpoint(f"unix:{tmp_path}/silent"))
    yield client
    over.set()
    await client.close()
    server.close()
    await server.wait_closed()


async def give_up(placed: Placed, model: str) -> None:
    """What the watch does when the probe of a server gets no answer."""
    while not placed.useless.in_flight:  # noqa: ASYNC110  # nothing tells us of it
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    placed.useless.fail_in_flight(model)


async def test_a_server_that_hangs_loses_what_has_no_token_to_another(
    silent: TritonClient, triton_demo: SupervisedTriton
) -> None:
    placed = Placed(silent, triton_demo)
    right = await placed.completion(alone=True)
    moved, _ = await asyncio.gather(placed.completion(), give_up(placed, "demo-chat"))
    assert moved.choices == right.choices
    assert moved.usage.completion_tokens == right.usage.completion_tokens
    assert placed.is_out("demo-chat")
    vectors = await placed.vectors(alone=True)
    answers, _ = await asyncio.gather(placed.vectors(), give_up(placed, "demo-embed"))
    assert answers == vectors
    assert placed.is_out("demo-embed")
    await placed.there.close()


async def test_where_every_server_is_away_the_caller_is_told(
    tmp_path: Path, triton_demo: SupervisedTriton
) -> None:
    away = [TritonClient(TritonEndpoint(f"unix:{tmp_path}/{name}")) for name in PLACES]
    placed = Placed(away[0], triton_demo)
    placements = Placements(
        [Server(name, client) for name, client in zip(PLACES, away, strict=True)], MODELS
    )
    for replica in placements.of("demo-chat").replicas:
        replica.admit()
    backend = TritonBackend(placed.served, placements, SALTS, first_token_timeout_s=30)
    request = GenerationRequest("demo/chat", TextPrompt("Hello"), max_tokens=4)
    prepared = await backend.prepare(placed.models["demo-chat"], request)
    run = prepared.start("away")
    with pytest.raises(ModelUnavailable):
        await fold(run)
    assert (await produced(run)).completion_tokens == 0
    assert not placements.of("demo-chat").ready
    for client in (*away, placed.there):
        await client.close()
