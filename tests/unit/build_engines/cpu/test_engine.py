from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from build_engines.cpu.engine import Engine
from build_engines.cpu.runtime import Logits, StepInputs
from build_engines.serving.request import (
    Generation,
    QueueFullError,
    Request,
    RequestError,
    Sampling,
)
from tests.unit.build_engines.conftest import EngineFactory

GREEDY = Sampling(top_k=1)
BLOCK = 32


def prompt(length: int, seed: int = 0) -> npt.NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, 250, length).astype(np.int32)


def run(engine: Engine, *requests: Request) -> list[Generation]:
    generations = [engine.submit(request) for request in requests]
    for generation in generations:
        assert generation.wait(60)
    return generations


def ask(length: int = 10, tokens: int = 20, seed: int = 0, **fields: Any) -> Request:
    return Request(prompt(length, seed), tokens, **{"sampling": GREEDY, **fields})


def mixed(index: int) -> Request:
    """One of many kinds of request, the same for the same index."""
    samplings = [
        Sampling(seed=index),
        Sampling(seed=index, top_p=0.8, temperature=1.3),
        Sampling(seed=index, top_k=20, min_p=0.01),
        Sampling(seed=index, frequency_penalty=0.5, repetition_penalty=1.2),
    ]
    return ask(3 + 5 * index, 40, index, sampling=samplings[index % 4])


def test_the_same_seed_gives_the_same_tokens_alone_and_among_32(engine: Engine) -> None:
    requests = [mixed(index) for index in range(32)]
    alone = [run(engine, request)[0].token_ids for request in requests]
    together = [generation.token_ids for generation in run(engine, *requests)]
    assert together == alone


def test_a_long_prompt_gives_the_same_tokens_in_chunks(engine: Engine) -> None:
    long = ask(200, 20, seed=3)
    alone = run(engine, long)[0].token_ids
    running = engine.submit(ask(5, 200, seed=4))
    beside = engine.submit(ask(200, 20, seed=3, sampling=GREEDY))
    assert beside.wait(60)
    assert running.wait(60)
    assert beside.token_ids == alone


def test_a_request_joins_and_leaves_while_another_runs(engine: Engine) -> None:
    long = engine.submit(ask(5, 240))
    wait_for(lambda: len(long.token_ids) > 3)
    short = engine.submit(ask(5, 3, seed=1))
    assert short.wait(60)
    assert long.finish is None
    assert long.wait(60)
    assert len(long.token_ids) == 240


def test_equal_prefixes_are_computed_once(engine_with: EngineFactory) -> None:
    engine = engine_with()
    first, second, third = (
        run(engine, ask(100, 5))[0],
        run(engine, ask(100, 5))[0],
        run(engine, ask(100, 5, seed=9))[0],
    )
    assert first.cache.reused_blocks == 0
    assert second.cache.reused_blocks == 100 // BLOCK
    assert second.cache.new_blocks == first.cache.new_blocks - 100 // BLOCK
    assert third.cache.reused_blocks == 0
    assert first.token_ids == second.token_ids


def test_a_whole_cached_prompt_still_computes_its_last_token(engine_with: EngineFactory) -> None:
    engine = engine_with()
    first, second = run(engine, ask(64, 8))[0], run(engine, ask(64, 8))[0]
    assert second.cache.reused_blocks == 1
    assert first.token_ids == second.token_ids


def test_an_answer_is_the_cached_prefix_of_the_next_turn(engine_with: EngineFactory) -> None:
    engine = engine_with()
    turn = run(engine, ask(40, 60))[0]
    history = np.concatenate([prompt(40), np.array(turn.token_ids, np.int32)])
    follow_up = Request(np.append(history, 7).astype(np.int32), 5, GREEDY)
    cached = run(engine, follow_up)[0]
    assert cached.cache.reused_blocks == (40 + 60 - 1) // BLOCK
    fresh = run(engine_with(), follow_up)[0]
    assert cached.token_ids == fresh.token_ids


def test_a_full_cache_queues_and_never_fails(engine_with: EngineFactory) -> None:
    engine = engine_with(kv_cache_tokens=4 * BLOCK)
    requests = [ask(40, 60, seed) for seed in range(10)]  # four blocks each: one at a time
    for generation in run(engine, *requests):
        assert generation.finish == "length"
        assert len(generation.token_ids) == 60


def test_what_can_never_fit_is_refused_alone(engine_with: EngineFactory) -> None:
    engine = engine_with(kv_cache_tokens=2 * BLOCK)
    with pytest.raises(RequestError, match=r"60 prompt tokens and 60 more .* cache of 64 tokens"):
        engine.submit(ask(60, 60))
    assert run(engine, ask(30, 30))[0].finish == "length"


def test_a_cache_larger_than_the_memory_is_refused_with_both_sizes(
    engine_with: EngineFactory,
) -> None:
    with pytest.raises(MemoryError, match=r"needs \d+ MiB, \d+ MiB are free: lower `kv_cache"):
        engine_with(kv_cache_tokens=2**40)


def test_more_than_may_wait_are_refused(engine_with: EngineFactory) -> None:
    engine = engine_with(max_batch_size=1, max_queue_size=2)
    held = [engine.submit(ask(5, 240)) for _ in range(3)]
    with pytest.raises(QueueFullError, match=r"Exceeds maximum queue size$"):
        engine.submit(ask())
    for generation in held:
        engine.cancel(generation)
        assert generation.wait(60)
    assert run(engine, ask())[0].finish == "length"


def test_no_more_run_than_the_batch_holds(engine_with: EngineFactory) -> None:
    engine = engine_with(max_batch_size=2)
    first, second, third = (engine.submit(ask(5, 150, seed)) for seed in range(3))
    for generation in (first, second, third):
        assert generation.wait(60)
    assert third.timing.first_scheduled >= min(first.timing.last_token, second.timing.last_token)


def test_cancelling_ends_a_running_and_a_waiting_request(engine_with: EngineFactory) -> None:
    engine = engine_with(max_batch_size=1)
    running, waiting = engine.submit(ask(5, 250)), engine.submit(ask(5, 250, 1))
    wait_for(lambda: bool(running.token_ids))
    engine.cancel(waiting)
    assert waiting.wait(60)
    engine.cancel(running)
    assert running.wait(60)
    assert running.finish == waiting.finish == "cancelled"
    assert not waiting.token_ids
    assert 0 < len(running.token_ids) < 250
    engine.cancel(running)
    assert run(engine, ask())[0].finish == "length"


def test_end_id_is_left_out_and_stop_words_stay(engine: Engine) -> None:
    tokens = run(engine, ask(10, 30))[0].token_ids
    ended = run(engine, ask(10, 30, end_id=tokens[7]))[0]
    first = tokens.index(tokens[7])
    assert (ended.finish, ended.token_ids) == ("stop", tokens[:first])
    single = run(engine, ask(10, 30, stop_words=((tokens[7],),)))[0]
    assert (single.finish, single.token_ids) == ("stop", tokens[: first + 1])
    pair = run(engine, ask(10, 30, stop_words=((999, 1), (tokens[8], tokens[9]))))[0]
    assert (pair.finish, pair.token_ids) == ("stop", tokens[:10])


def test_ends_wait_for_min_tokens(engine: Engine) -> None:
    tokens = run(engine, ask(10, 30))[0].token_ids
    held = run(engine, ask(10, 30, end_id=tokens[2], min_tokens=10))[0]
    assert len(held.token_ids) >= 10
    assert tokens[2] not in held.token_ids[:10]
    pair = run(engine, ask(10, 30, stop_words=((tokens[1], tokens[2]),), min_tokens=10))[0]
    assert len(pair.token_ids) >= 10


def test_log_probs_are_those_of_the_raw_logits(engine: Engine) -> None:
    greedy = run(engine, ask(10, 12, log_probs=True, top_log_probs=3))[0]
    for index, (ids, values) in enumerate(greedy.top_log_probs):
        assert ids[0] == greedy.token_ids[index]
        assert values[0] == pytest.approx(greedy.log_probs[index], abs=1e-5)
        assert list(values) == sorted(values, reverse=True)
    bias = np.zeros(engine.limits.vocab_size, np.float32)
    bias[5] = 1000.0
    forced = run(engine, ask(10, 1, sampling=Sampling(top_k=1, bias=bias), log_probs=True))[0]
    assert forced.token_ids == [5]
    assert forced.log_probs[0] < greedy.log_probs[0]


def test_timings_follow_each_other(engine: Engine) -> None:
    timing = run(engine, ask())[0].timing
    assert 0 < timing.arrival <= timing.first_scheduled <= timing.first_token <= timing.last_token


def test_a_request_that_breaks_while_sampling_fails_alone(engine: Engine) -> None:
    class Broken(Sampling):
        @property
        def plain(self) -> bool:
            return False

    short_bias = np.zeros(3, np.float32)  # no such request passes the tensors' checks
    broken = engine.submit(ask(10, 20, sampling=Broken(top_k=1, bias=short_bias)))
    neighbour = engine.submit(ask(10, 60))
    assert broken.wait(60)
    assert neighbour.wait(60)
    assert broken.finish == "error"
    assert neighbour.finish == "length"


def test_a_step_that_fails_ends_its_requests_and_not_the_loop(
    engine_with: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with()
    expected = run(engine, ask(40, 40))[0].token_ids
    runtime = engine._scheduler._runtime
    working = runtime.run
    steps = iter(range(1000))

    def fails_once(inputs: StepInputs) -> Logits:
        if next(steps) == 5:
            raise RuntimeError("no memory for this step")
        return working(inputs)

    monkeypatch.setattr(runtime, "run", fails_once)
    failed = run(engine, ask(40, 200, 1), ask(40, 200, 2))
    assert {generation.finish for generation in failed} == {"error"}
    assert {generation.error for generation in failed} == {
        "the engine failed while computing this request"
    }
    assert run(engine, ask(40, 40))[0].token_ids == expected
    assert engine._scheduler.pool.available == runtime.num_blocks


def test_closing_ends_what_runs_and_refuses_what_comes(engine_with: EngineFactory) -> None:
    engine = engine_with()
    running = engine.submit(ask(5, 250))
    wait_for(lambda: bool(running.token_ids))
    engine.close()
    assert running.finish == "error"
    assert running.error == "the model is being unloaded"
    with pytest.raises(RequestError, match="being unloaded"):
        engine.submit(ask())
    assert not engine._thread.is_alive()


def wait_for(condition: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
