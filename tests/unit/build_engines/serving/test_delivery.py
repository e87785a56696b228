from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from build_engines.serving.delivery import Delivery, ResponseTensors, Stream
from build_engines.serving.request import Generation, Request
from build_engines.serving.tensors import ParsedRequest

EVERYTHING = frozenset(
    {
        "output_ids",
        "sequence_length",
        "output_log_probs",
        "cum_log_probs",
        "top_log_prob_ids",
        "top_log_probs",
        "num_input_tokens",
        "num_output_tokens",
        "finish_reason",
        "first_token_time_ns",
        "kv_cache_reused_blocks",
    }
)


class Recorder:
    """A channel that keeps what it is given."""

    def __init__(self) -> None:
        self.responses: list[tuple[ResponseTensors, bool]] = []
        self.errors: list[str] = []
        self.ended = threading.Event()
        self.nobody_listens = False
        self.broken = False
        self.asked_after_end = False

    def send(self, tensors: ResponseTensors, *, final: bool) -> None:
        if self.broken:
            raise RuntimeError("the shared memory is gone")
        self.responses.append((tensors, final))
        if final:
            self.ended.set()

    def fail(self, message: str) -> None:
        self.errors.append(message)
        self.ended.set()

    def is_cancelled(self) -> bool:
        self.asked_after_end |= self.ended.is_set()
        return self.nobody_listens

    def token_ids(self) -> list[list[int]]:
        return [tensors["output_ids"].ravel().tolist() for tensors, _ in self.responses]


def generation_of(**fields: Any) -> Generation:
    return Generation(Request(np.array([7, 8], np.int32), 100, **fields))


def stream_of(
    generation: Generation, wanted: frozenset[str] = EVERYTHING, **flags: bool
) -> tuple[Stream, Recorder]:
    defaults = {
        "streaming": True,
        "exclude_input": True,
        "perf_metrics": False,
        "num_input_tokens": False,
        "num_output_tokens": False,
    }
    recorder = Recorder()
    parsed = ParsedRequest(generation.request, **{**defaults, **flags})
    return Stream(generation, parsed, recorder, wanted), recorder


@pytest.fixture
def delivery() -> Iterator[Delivery]:
    opened = Delivery(lambda g: g.close("cancelled"), window_s=0.02, cancel_check_s=0.02)
    yield opened
    opened.close(5)


def grow(delivery: Delivery, generation: Generation, *tokens: int) -> None:
    """As the engine does: append, then tell."""
    for token in tokens:
        first = not generation.token_ids
        generation.token_ids.append(token)
        delivery.progressed(first)


def end(delivery: Delivery, generation: Generation) -> None:
    generation.close("stop")
    delivery.progressed(True)


def test_the_first_token_leaves_alone_and_the_others_together(delivery: Delivery) -> None:
    generation = generation_of()
    stream, recorder = stream_of(generation)
    delivery.add(stream)
    grow(delivery, generation, 1)
    wait_for(lambda: len(recorder.responses) == 1)
    grow(delivery, generation, 2, 3, 4)
    wait_for(lambda: len(recorder.responses) == 2)
    grow(delivery, generation, 5)
    end(delivery, generation)
    assert recorder.ended.wait(60)
    assert recorder.token_ids() == [[1], [2, 3, 4], [5]]
    assert [final for _, final in recorder.responses] == [False, False, True]
    lengths = [int(t["sequence_length"][0, 0]) for t, _ in recorder.responses]
    assert lengths == [1, 3, 1]


def test_the_final_response_may_be_empty_and_names_the_reason(delivery: Delivery) -> None:
    generation = generation_of()
    stream, recorder = stream_of(generation)
    delivery.add(stream)
    grow(delivery, generation, 1)
    wait_for(lambda: len(recorder.responses) == 1)
    end(delivery, generation)
    assert recorder.ended.wait(60)
    first, last = (tensors for tensors, _ in recorder.responses)
    assert last["output_ids"].shape == (1, 1, 0)
    assert last["finish_reason"].tolist() == [["stop"]]
    assert "finish_reason" not in first


def test_without_streaming_there_is_one_response(delivery: Delivery) -> None:
    generation = generation_of()
    stream, recorder = stream_of(generation, streaming=False, exclude_input=False)
    delivery.add(stream)
    grow(delivery, generation, 1, 2, 3)
    time.sleep(0.05)
    assert not recorder.responses
    end(delivery, generation)
    assert recorder.ended.wait(60)
    assert recorder.token_ids() == [[7, 8, 1, 2, 3]]
    assert recorder.responses[0][0]["sequence_length"].tolist() == [[5]]


def test_log_probs_repeat_and_alternatives_do_not(delivery: Delivery) -> None:
    generation = generation_of(log_probs=True, top_log_probs=2)
    stream, recorder = stream_of(generation, num_input_tokens=True, num_output_tokens=True)
    delivery.add(stream)
    for token in (1, 2):
        generation.log_probs.append(-float(token))
        best = np.array([token, 9], np.int32), np.array([-0.5, -1], np.float32)
        generation.top_log_probs.append(best)
        grow(delivery, generation, token)
        wait_for(lambda: sum(map(len, recorder.token_ids())) == len(generation.token_ids))
    end(delivery, generation)
    assert recorder.ended.wait(60)
    first, second, last = (tensors for tensors, _ in recorder.responses)
    assert first["output_log_probs"].tolist() == [[[-1.0]]]
    assert second["output_log_probs"].tolist() == [[[-1.0, -2.0]]]
    assert second["cum_log_probs"].tolist() == [[-3.0]]
    assert second["top_log_prob_ids"].tolist() == [[[2, 9]]]
    assert last["top_log_probs"].shape == (1, 0, 2)
    assert [t["num_output_tokens"].tolist() for t in (first, second, last)] == [[[1]], [[1]], [[0]]]
    assert first["num_input_tokens"].tolist() == [[2]]


def test_only_wanted_outputs_are_made(delivery: Delivery) -> None:
    generation = generation_of(log_probs=True)
    wanted = frozenset({"output_ids", "sequence_length"})
    stream, recorder = stream_of(generation, wanted, perf_metrics=True)
    delivery.add(stream)
    end(delivery, generation)
    assert recorder.ended.wait(60)
    assert recorder.responses[0][0].keys() == wanted


def test_metrics_come_with_the_end(delivery: Delivery) -> None:
    generation = generation_of()
    stream, recorder = stream_of(generation, perf_metrics=True)
    generation.timing.first_token = 12345
    generation.cache.reused_blocks = 3
    delivery.add(stream)
    end(delivery, generation)
    assert recorder.ended.wait(60)
    tensors = recorder.responses[0][0]
    assert tensors["first_token_time_ns"].tolist() == [[12345]]
    assert tensors["kv_cache_reused_blocks"].tolist() == [[3]]


def test_an_error_ends_a_stream_after_what_was_sent(delivery: Delivery) -> None:
    generation = generation_of()
    stream, recorder = stream_of(generation)
    delivery.add(stream)
    generation.close("error", "`seed` is odd")
    delivery.progressed(True)
    assert recorder.ended.wait(60)
    assert recorder.errors == ["`seed` is odd"]


def test_a_client_that_left_is_noticed_and_never_asked_after_the_end(delivery: Delivery) -> None:
    generation = generation_of()
    stream, recorder = stream_of(generation)
    delivery.add(stream)
    grow(delivery, generation, 1)
    recorder.nobody_listens = True
    assert generation.wait(60)
    delivery.progressed(True)
    assert recorder.ended.wait(60)
    assert recorder.responses[-1][0]["finish_reason"].tolist() == [["cancelled"]]
    time.sleep(0.06)
    assert not recorder.asked_after_end


def test_a_response_that_cannot_be_sent_ends_that_stream_alone(delivery: Delivery) -> None:
    broken_generation, other_generation = generation_of(), generation_of()
    broken, broken_recorder = stream_of(broken_generation)
    other, other_recorder = stream_of(other_generation)
    broken_recorder.broken = True
    delivery.add(broken)
    delivery.add(other)
    grow(delivery, broken_generation, 1)
    grow(delivery, other_generation, 1)
    end(delivery, other_generation)
    assert other_recorder.ended.wait(60)
    assert broken_recorder.ended.wait(60)
    assert broken_recorder.errors == ["the response could not be sent"]
    assert broken_generation.finish == "cancelled"


def wait_for(condition: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
