"""Inputs to embed: what is refused, and which calls the engines get."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.backends.protocol import NO_LIMITS
from orchestrator.backends.triton.comeback import WaitingRoom
from orchestrator.backends.triton.embedding import Embedder, TritonEmbedding, rows_of
from orchestrator.backends.triton.placement import Placements, Server
from orchestrator.backends.triton.served import PreparedEmbedding, ServedModel
from orchestrator.contract.catalogue import EngineRecipe, Model
from orchestrator.contract.manifest import Manifest
from orchestrator.core.errors import ContextLengthExceeded, InvalidRequest, ModelUnavailable
from orchestrator.core.fair_threads import FairThreads
from orchestrator.core.request import EmbeddingRequest, SamplingParams
from orchestrator.rendering import Renderer
from orchestrator.triton.client import TritonClient

Ids = tuple[int, ...]


class Words:
    """A renderer to which a text is one token a word, its number of letters."""

    def encode_few(self, texts: Sequence[str]) -> list[list[int]]:
        return [[len(word) for word in text.split()] for text in texts]


class Engine:
    """A client whose vectors are the ids; it fails on the rows that hold `bad`."""

    def __init__(self, bad: int = -1) -> None:
        self.calls: list[tuple[str, str, list[Sequence[int]]]] = []
        self._bad = bad

    async def embed(
        self, model: str, request_id: str, rows: Sequence[Sequence[int]]
    ) -> list[memoryview]:
        self.calls.append((model, request_id, list(rows)))
        if any(self._bad in row for row in rows):
            raise ModelUnavailable("down")
        return [memoryview(bytes(row)) for row in rows]


@pytest.fixture
def served(tmp_path: Path) -> ServedModel:
    numbers: dict[str, Any] = {"max_batch_size": 2, "max_input_len": 3, "max_seq_len": 8}
    manifest = Manifest(
        directory=tmp_path, model="embed", task="embed", target="cpu", vocab_size=10, end_id=-1,
        extra_end_ids=(), pad_id=None, reports_finish_reason=False, supports_min_p=False,
        dimension=4, **numbers,
    )  # fmt: skip
    model = Model("acme/embed", "embed", "embed", 8, EngineRecipe("-"))
    return ServedModel(model, manifest, cast("Renderer", Words()), SamplingParams())


def asked(*inputs: str | Ids, dimensions: int | None = None) -> EmbeddingRequest:
    return EmbeddingRequest("acme/embed", inputs, dimensions)


async def prepared_for(served: ServedModel, request: EmbeddingRequest) -> PreparedEmbedding:
    threads = FairThreads(1, most_running_bytes=1)
    rows = await rows_of(served, request, "", NO_LIMITS, threads)
    return PreparedEmbedding(served, request, rows, partial(TritonEmbedding, embedder(Engine())))


def embedder(engine: Engine) -> Embedder:
    placements = Placements([Server("a", cast("TritonClient", engine))])
    return Embedder(placements, timeout_s=1, waiting=WaitingRoom(0))


async def embedded(
    engine: Engine, served: ServedModel, *rows: Ids, answered: list[int] | None = None
) -> list[Ids]:
    asking = embedder(engine)
    told = [] if answered is None else answered
    prepared = PreparedEmbedding(served, asked(*rows), rows, partial(TritonEmbedding, asking))
    vectors = await asking.embed(prepared, "r", told.append)
    return [tuple(vector) for vector in vectors]


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [
        (("a bb", "ccc"), [(1, 2), (3,)]),
        (((7, 8), (9,)), [(7, 8), (9,)]),
        (((7,), "a bb", (0,), "ccc"), [(7,), (1, 2), (0,), (3,)]),
    ],
)
async def test_texts_are_encoded_and_ids_stay(
    served: ServedModel, inputs: tuple[str | Ids, ...], rows: list[Ids]
) -> None:
    prepared = await prepared_for(served, asked(*inputs, dimensions=4))
    assert [tuple(row) for row in prepared.rows] == rows
    assert prepared.prompt_tokens == sum(len(row) for row in rows)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (("a", " "), "`input[1]` has no tokens."),
        (((1,), (10,)), "`input[1]` has a token outside 0 to 9."),
        (((1,), (1, -1)), "`input[1]` has a token outside 0 to 9."),
    ],
)
async def test_the_first_input_that_is_wrong_is_named(
    served: ServedModel, inputs: tuple[str | Ids, ...], message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await prepared_for(served, asked(*inputs))
    assert (caught.value.message, caught.value.param) == (message, "input")


async def test_an_input_may_be_as_long_as_the_engine_takes_and_no_longer(
    served: ServedModel,
) -> None:
    await prepared_for(served, asked("a b c"))
    with pytest.raises(ContextLengthExceeded, match=r"`input\[1\]` has 4 tokens; .* takes 3\."):
        await prepared_for(served, asked("a", "a b c d"))


async def test_other_dimensions_are_refused(served: ServedModel) -> None:
    with pytest.raises(InvalidRequest, match="gives vectors of 4") as caught:
        await prepared_for(served, asked("a", dimensions=3))
    assert caught.value.param == "dimensions"


async def test_what_fits_into_a_batch_is_one_call(served: ServedModel) -> None:
    engine = Engine()
    assert await embedded(engine, served, (1,), (2, 3)) == [(1,), (2, 3)]
    assert engine.calls == [("embed", "r-0", [(1,), (2, 3)])]


async def test_more_is_cut_into_batches_and_comes_back_in_order(served: ServedModel) -> None:
    engine = Engine()
    assert await embedded(engine, served, (1,), (2,), (3,)) == [(1,), (2,), (3,)]
    assert [(number, rows) for _, number, rows in engine.calls] == [
        ("r-0", [(1,), (2,)]),
        ("r-1", [(3,)]),
    ]


@pytest.mark.parametrize(("rows", "worked"), [(((9,),), []), (((1, 4), (2,), (9,)), [3])])
async def test_a_batch_that_fails_fails_all_and_the_work_on_others_is_known(
    served: ServedModel, rows: tuple[Ids, ...], worked: list[int]
) -> None:
    answered: list[int] = []
    with pytest.raises(ModelUnavailable):
        await embedded(Engine(bad=9), served, *rows, answered=answered)
    assert answered == worked
