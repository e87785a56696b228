"""Generations and embeddings whose only engine goes away, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.backends.protocol import GenerationRun
from orchestrator.backends.triton.backend import TritonBackend
from orchestrator.backends.triton.comeback import WaitingRoom
from orchestrator.backends.triton.placement import Placements, Rules, Server
from orchestrator.backends.triton.prefix_salts import PrefixSalts
from orchestrator.contract.catalogue import load_catalogue
from orchestrator.core.errors import ModelUnavailable
from orchestrator.core.events import Usage, fold
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

RULES = Rules(wait_s=60)


class Door:
    """A socket in front of a real Triton, which can be shut and opened again.

    While it is `held`, what comes is not passed on.
    """

    def __init__(self, path: Path, triton: str) -> None:
        self._path, self._triton = path, triton
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.held = False
        self.came = asyncio.Event()

    async def open(self) -> None:
        self.held = False
        self._server = await asyncio.start_unix_server(self._pass, self._path)

    async def shut(self) -> None:
        """Cuts every connection; new ones are refused."""
        assert self._server is not None
        self._server.close()
        self._path.unlink()
        for writer in list(self._open):
            writer.transport.abort()
        self.came.clear()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond, to = await asyncio.open_unix_connection(self._triton)
        self._open |= {writer, to}
        await asyncio.gather(self._copy(reader, to, can_hold=True), self._copy(beyond, writer))
        self._open -= {writer, to}

    async def _copy(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, *, can_hold: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(65536):
                if can_hold and self.held:
                    self.came.set()
                else:
                    to.write(block)
        to.close()


class Alone:
    """A backend whose models are on one Triton, behind a door."""

    def __init__(self, door: Door, client: TritonClient, triton: SupervisedTriton) -> None:
        self.door = door
        self.room = WaitingRoom(4)
        models = load_catalogue(triton.settings.catalogue).models
        repository = triton.settings.triton.repository
        self._served = {one.name: read_built(repository, one) for one in models}
        self._placements = Placements([Server("default", client)], rules=RULES)
        self._backend = TritonBackend(
            lambda model: self._served[model.name],
            self._placements,
            PrefixSalts(b""),
            first_token_timeout_s=60,
            waiting=self.room,
        )
        self._count = 0

    async def run(self, *, n: int = 2) -> GenerationRun:
        self._count += 1
        request = GenerationRequest(
            "demo/chat", TextPrompt("Hello"), sampling=SamplingParams(temperature=0),
            max_tokens=6, n=n,
        )  # fmt: skip
        prepared = await self._backend.prepare(self._served["demo-chat"].model, request, "ten")
        return prepared.start(f"alone-{self._count}")

    async def vectors(self) -> list[bytes]:
        request = EmbeddingRequest("demo/embed", ("one text", "another text"))
        model = self._served["demo-embed"].model
        prepared = await self._backend.prepare_embedding(model, request, "ten")
        return [bytes(one) for one in await prepared.start("alone").vectors()]

    async def go(self) -> None:
        """Triton is gone, and the watch has noticed."""
        await self.door.shut()
        for name in self._served:
            self._placements.of(name).replicas[0].eject()

    async def come(self) -> None:
        """It is back."""
        await self.door.open()
        for name in self._served:
            self._placements.of(name).replicas[0].admit()

    async def some_wait(self, count: int = 1) -> None:
        while self.room.count < count:  # noqa: ASYNC110  # nothing tells us of it
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture(loop_scope="session")
async def alone(tmp_path: Path, triton_demo: SupervisedTriton) -> AsyncIterator[Alone]:
    endpoint = triton_demo.endpoint
    door = Door(tmp_path / "door", endpoint.url.removeprefix("unix:"))
    client = TritonClient(TritonEndpoint(f"unix:{tmp_path}/door", token=endpoint.token))
    alone = Alone(door, client, triton_demo)
    await alone.come()
    yield alone
    await client.close()
    await door.shut()


async def test_calls_made_while_the_engine_is_away_are_answered_when_it_is_back(
    alone: Alone,
) -> None:
    right, vectors = await fold(await alone.run()), await alone.vectors()
    await alone.go()
    run, embedded = await alone.run(), asyncio.create_task(alone.vectors())
    answered = asyncio.create_task(fold(run))
    await alone.some_wait(2)
    assert not answered.done()
    await alone.come()
    completion = await answered
    assert completion.choices == right.choices
    assert await produced(run) == completion.usage
    assert await embedded == vectors
    assert alone.room.count == 0


async def test_calls_without_a_token_begin_again_when_their_engine_dies(alone: Alone) -> None:
    right, vectors = await fold(await alone.run()), await alone.vectors()
    alone.door.held = True
    answered = asyncio.create_task(fold(await alone.run()))
    embedded = asyncio.create_task(alone.vectors())
    await alone.door.came.wait()
    await alone.go()
    await alone.some_wait(2)
    await alone.come()
    assert (await answered).choices == right.choices
    assert await embedded == vectors


async def test_a_call_that_an_engine_dies_of_twice_fails(alone: Alone) -> None:
    alone.door.held = True
    answered = asyncio.create_task(fold(await alone.run()))
    await alone.door.came.wait()
    await alone.go()
    await alone.some_wait()
    await alone.come()
    alone.door.held = True
    await alone.door.came.wait()
    await alone.go()
    with pytest.raises(ModelUnavailable):
        await answered
    assert alone.room.count == 0
    await alone.come()


async def test_a_call_that_is_left_waits_no_more_and_has_used_nothing(alone: Alone) -> None:
    await alone.go()
    run = await alone.run(n=1)
    await alone.some_wait()
    run.stop()
    assert run.has_ended
    assert await produced(run) == Usage(0, 0)
    while alone.room.count:  # noqa: ASYNC110  # nothing tells us of it
        await asyncio.sleep(0.01)
    await alone.come()
