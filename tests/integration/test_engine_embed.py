"""Embeddings by the CPU engine inside the real tritonserver."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from tests.integration.engine_calls import Tensors, Triton, prompt, running
from tests.reference.checkpoints import write_encoder
from tests.unit.build_engines.conftest import built, model_of

MODEL = "bert"
RECORDED = Path(__file__).resolve().parents[1] / "reference" / "encoders.json"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def triton(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Triton]:
    folder = tmp_path_factory.mktemp("engine")
    checkpoint = write_encoder(folder / MODEL, MODEL)
    built(folder / "repository", model_of(checkpoint, "embed", 128, max_batch_size=64))
    async with running(folder / "repository", folder / "data", [MODEL]) as client:
        yield client


def rows(*texts: list[int]) -> Tensors:
    width = max(len(text) for text in texts)
    padded = [text + [0] * (width - len(text)) for text in texts]
    mask = [[1] * len(text) + [0] * (width - len(text)) for text in texts]
    return {"input_ids": np.array(padded, np.int32), "attention_mask": np.array(mask, np.int32)}


async def embed(triton: Triton, *texts: list[int]) -> npt.NDArray[np.float32]:
    return (await triton.infer(MODEL, rows(*texts)))["embedding"]


async def test_vectors_are_those_of_torch(triton: Triton) -> None:
    reference = json.loads(RECORDED.read_text())[MODEL]
    wanted = np.array(reference["mean"])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert await embed(triton, *reference["texts"]) == pytest.approx(wanted, abs=1e-4)


async def test_a_text_has_the_same_vector_alone_and_among_others(triton: Triton) -> None:
    texts = [prompt(1 + 7 * n % 100, n) for n in range(60)]
    alone = [(await embed(triton, text))[0] for text in texts]
    at_once = await asyncio.gather(*(embed(triton, text) for text in texts))
    assert np.concatenate(at_once) == pytest.approx(np.array(alone), abs=1e-5)
    assert await embed(triton, *texts) == pytest.approx(np.array(alone), abs=1e-5)


async def test_token_types_matter(triton: Triton) -> None:
    plain = rows(prompt(5))
    typed = {**plain, "token_type_ids": np.ones((1, 5), np.int32)}
    first = (await triton.infer(MODEL, plain))["embedding"]
    second = (await triton.infer(MODEL, typed))["embedding"]
    assert np.abs(first - second).max() > 0.01


async def test_a_wrong_text_fails_its_own_request_only(triton: Triton) -> None:
    good = [asyncio.create_task(embed(triton, prompt(5, n))) for n in range(20)]
    with pytest.raises(grpc.RpcError) as refused:
        await embed(triton, [1, 272])
    assert "`input_ids` holds token 272, must be from 0 to 271" in str(refused.value.details())
    with pytest.raises(grpc.RpcError) as too_long:
        await embed(triton, prompt(129))
    assert "exceeds maximum input length (128)" in str(too_long.value.details())
    for vector in await asyncio.gather(*good):
        assert vector.shape == (1, 48)


async def test_a_burst_waits_for_no_timer(triton: Triton) -> None:
    """Triton's batcher once held every batch for 500 ms (see templates/embed.pbtxt)."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    await asyncio.gather(*(embed(triton, prompt(16, n)) for n in range(400)))
    assert loop.time() - started < 10
