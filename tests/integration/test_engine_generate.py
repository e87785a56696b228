"""Generation by the CPU engine inside the real tritonserver."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from tests.integration.engine_calls import Triton, generate_tensors, prompt, running
from tests.reference.checkpoints import EXTRA_END_ID, write_decoder
from tests.unit.build_engines.conftest import built, model_of

MODEL = "llama"
GREEDY = {"runtime_top_k": 1}
RECORDED = Path(__file__).resolve().parents[1] / "reference" / "decoders.json"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def triton(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Triton]:
    folder = tmp_path_factory.mktemp("engine")
    checkpoint = write_decoder(folder / MODEL, MODEL)
    recipe = {"max_batch_size": 32, "max_queue_size": 40}
    built(folder / "repository", model_of(checkpoint, "generate", **recipe))
    async with running(folder / "repository", folder / "data", [MODEL]) as client:
        yield client


async def test_streamed_tokens_are_those_of_torch(triton: Triton) -> None:
    for case in json.loads(RECORDED.read_text())[MODEL]:
        tensors = generate_tensors(case["prompt"], len(case["tokens"]), streaming=True, **GREEDY)
        responses = await triton.collect(MODEL, tensors)
        assert [t for r in responses for t in r.token_ids] == case["tokens"]
        assert [r.final for r in responses] == [False] * (len(responses) - 1) + [True]
        assert responses[-1].finish_reason == "length"
        for response in responses:
            assert response.tensors["output_ids"].shape == (1, 1, len(response.token_ids))
            assert response.tensors["sequence_length"].tolist() == [[len(response.token_ids)]]


async def test_without_streaming_one_response_holds_all(triton: Triton) -> None:
    ids = prompt(12)
    tensors = generate_tensors(ids, 20, **GREEDY)
    (only,) = await triton.collect(MODEL, tensors)
    assert only.final
    assert len(only.token_ids) == 20
    (whole,) = await triton.collect(MODEL, {**tensors, "exclude_input_in_output": no()})
    assert whole.token_ids == [*ids, *only.token_ids]
    assert whole.tensors["sequence_length"].tolist() == [[32]]


async def test_ends_are_told_apart(triton: Triton) -> None:
    free = await triton.tokens(MODEL, generate_tensors(prompt(12), 20, **GREEDY))
    end = generate_tensors(prompt(12), 20, end_id=free[6], streaming=True, **GREEDY)
    ended = await triton.collect(MODEL, end)
    first = free.index(free[6])
    assert [t for r in ended for t in r.token_ids] == free[:first]
    assert ended[-1].finish_reason == "stop"
    words = np.array([[[free[6], EXTRA_END_ID], [1, 2]]], np.int32)
    stop = generate_tensors(prompt(12), 20, stop_words_list=words, **GREEDY)
    (stopped,) = await triton.collect(MODEL, stop)
    assert stopped.token_ids == free[: first + 1]
    assert stopped.finish_reason == "stop"


async def test_log_probs_counts_and_timings_arrive(triton: Triton) -> None:
    tensors = generate_tensors(
        prompt(70),
        9,
        streaming=True,
        return_log_probs=True,
        num_top_log_probs=3,
        return_perf_metrics=True,
        return_num_input_tokens=True,
        return_num_output_tokens=True,
        **GREEDY,
    )
    await triton.collect(MODEL, tensors)
    responses = await triton.collect(MODEL, tensors)
    last = responses[-1].tensors
    assert last["output_log_probs"].shape == (1, 1, 9)
    assert last["cum_log_probs"][0, 0] == pytest.approx(last["output_log_probs"].sum(), abs=1e-4)
    assert sum(r.tensors["num_output_tokens"].item() for r in responses) == 9
    assert last["num_input_tokens"].item() == 70
    assert last["kv_cache_reused_blocks"].item() == 2
    order = ["arrival", "first_scheduled", "first_token", "last_token"]
    times = [int(last[f"{name}_time_ns"].item()) for name in order]
    assert times == sorted(times)
    for response in responses:
        count = len(response.token_ids)
        assert response.tensors["top_log_prob_ids"].shape == (1, count, 3)
        assert response.tensors["top_log_prob_ids"][0, :, 0].tolist() == response.token_ids


async def test_only_requested_outputs_are_sent(triton: Triton) -> None:
    tensors = generate_tensors(prompt(5), 3, return_log_probs=True, **GREEDY)
    (only,) = await triton.collect(MODEL, tensors, outputs=["output_ids", "sequence_length"])
    assert only.tensors.keys() == {"output_ids", "sequence_length"}


async def test_a_guide_that_costs_too_much_is_refused_and_the_engine_goes_on(
    triton: Triton,
) -> None:
    # Compiling so long a chain of references overflows the stack of the thread that does it.
    links = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(3_000)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**links, "d3000": {"type": "null"}}}
    guide = {
        "guided_decoding_guide_type": "json_schema",
        "guided_decoding_guide": json.dumps(schema),
    }
    responses = await triton.collect(MODEL, generate_tensors(prompt(5), 30, **guide))
    assert "no usable json_schema: it is too complex to compile" in responses[-1].error
    responses = await triton.collect(MODEL, generate_tensors(prompt(5), 30))
    assert not responses[-1].error


async def test_a_guide_is_followed_through_triton(triton: Triton) -> None:
    guide = {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "[0-9]{3}"}
    responses = await triton.collect(MODEL, generate_tensors(prompt(5), 30, **guide))
    assert len(responses[-1].token_ids) == 3
    assert responses[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("length", "more", "message"),
    [
        (5, {"temperature": 0.0}, "`temperature` is 0, must be > 0"),
        (5, {"end_id": 272}, "`end_id` is 272, must be from -1 to 271"),
        (5, {"lora_task_id": np.ones((1, 1), np.uint64)}, "`lora_task_id` is not supported"),
        (256, {}, "Prompt length (256) exceeds maximum input length (255)"),
        (
            5,
            {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": '{"type":"x"}'},
            "`guided_decoding_guide` is no usable json_schema: an unknown `type`",
        ),
    ],
)
async def test_a_refused_request_disturbs_nobody(
    triton: Triton, length: int, more: dict[str, Any], message: str
) -> None:
    neighbour = asyncio.create_task(
        triton.tokens(MODEL, generate_tensors(prompt(9), 100, streaming=True, **GREEDY))
    )
    responses = await triton.collect(MODEL, generate_tensors(prompt(length), 5, **more))
    assert len(responses) == 1
    assert message in responses[0].error
    assert len(await neighbour) == 100


async def test_a_token_outside_of_the_vocabulary_is_named(triton: Triton) -> None:
    responses = await triton.collect(MODEL, generate_tensors([1, 272], 5))
    assert "`input_ids` holds token 272, must be from 0 to 271" in responses[0].error


async def test_stop_with_the_same_id_ends_a_generation(triton: Triton) -> None:
    stops: list[Any] = []

    async def stop() -> None:
        tensors = generate_tensors([0], 1, stop=True)
        stops.extend(await triton.collect(MODEL, tensors, request_id="long"))

    stopper = None
    received = 0
    tensors = generate_tensors(prompt(4), 250, streaming=True)
    async for response in triton.stream(MODEL, tensors, request_id="long"):
        received += len(response.token_ids)
        stopper = stopper or asyncio.create_task(stop())
        last = response
    assert stopper is not None
    await stopper
    assert last.final
    assert last.finish_reason == "cancelled"
    assert 0 < received < 250
    (answer,) = stops
    assert (answer.error, answer.tensors, answer.final) == ("", {}, True)


async def test_stopping_what_is_unknown_succeeds_and_without_an_id_fails(triton: Triton) -> None:
    tensors = generate_tensors([0], 1, stop=True)
    (unknown,) = await triton.collect(MODEL, tensors, request_id="nobody")
    assert unknown.error == ""
    (nameless,) = await triton.collect(MODEL, tensors)
    assert "`stop` needs the id" in nameless.error


async def test_a_client_that_hangs_up_frees_its_place(triton: Triton) -> None:
    async def hang_up() -> None:
        stream = triton.stream(MODEL, generate_tensors(prompt(4), 250, streaming=True))
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]  # every async generator has it

    for _ in range(3):
        await asyncio.gather(*(hang_up() for _ in range(32)))
    async with asyncio.timeout(60):
        assert len(await triton.tokens(MODEL, generate_tensors(prompt(4), 5, **GREEDY))) == 5


async def test_the_same_seed_gives_the_same_tokens_alone_and_among_32(triton: Triton) -> None:
    requests = [
        generate_tensors(prompt(3 + 4 * n, n), 40, streaming=True, seed=n, runtime_top_p=0.9)
        for n in range(32)
    ]
    alone = [await triton.tokens(MODEL, request) for request in requests]
    together = await asyncio.gather(*(triton.tokens(MODEL, request) for request in requests))
    assert together == alone


async def test_a_full_queue_refuses_and_recovers(triton: Triton) -> None:
    requests = [generate_tensors(prompt(4, n), 240) for n in range(90)]
    answers = await asyncio.gather(*(triton.collect(MODEL, request) for request in requests))
    errors = [answer[-1].error for answer in answers if answer[-1].error]
    assert errors
    assert all(error.endswith("Exceeds maximum queue size") for error in errors)
    assert len(answers) - len(errors) >= 72
    assert len(await triton.tokens(MODEL, generate_tensors(prompt(4), 5, **GREEDY))) == 5


async def test_after_stops_at_random_the_model_unloads_and_loads(triton: Triton) -> None:
    chance = random.Random(5)

    async def one(number: int) -> None:
        tensors = generate_tensors(prompt(8, number), 60, streaming=chance.random() < 0.7)
        identity = f"mixed-{number}"
        stop_after = chance.randrange(12) if chance.random() < 0.5 else 10**6
        seen = 0
        async for response in triton.stream(MODEL, tensors, request_id=identity):
            assert not response.error
            seen += len(response.token_ids)
            if seen >= stop_after and not response.final:
                stop_after = 10**6
                await triton.collect(
                    MODEL, generate_tensors([0], 1, stop=True), request_id=identity
                )

    for round_ in range(8):
        await asyncio.gather(*(one(32 * round_ + n) for n in range(32)))
    await triton.unload(MODEL)
    await triton.load(MODEL)
    assert len(await triton.tokens(MODEL, generate_tensors(prompt(4), 5, **GREEDY))) == 5


async def test_unloading_answers_what_runs(triton: Triton) -> None:
    tensors = generate_tensors(prompt(4), 250, streaming=True)
    streams = [asyncio.create_task(triton.collect(MODEL, tensors)) for _ in range(8)]
    await asyncio.sleep(0.02)
    await triton.unload(MODEL)
    for answer in await asyncio.gather(*streams):
        assert answer[-1].final or answer[-1].error
    await triton.load(MODEL)
    assert len(await triton.tokens(MODEL, generate_tensors(prompt(4), 5, **GREEDY))) == 5


def no() -> np.ndarray[Any, Any]:
    return np.array([[False]])
