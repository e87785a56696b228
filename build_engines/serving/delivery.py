"""Sends the responses of running generations: when, and in which tensors.

One thread sends every response and checks every cancellation. This is necessary: to ask Triton
whether a request was cancelled while its final response is being sent crashes the server, and
within one thread the two cannot happen at the same time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from build_engines.serving.faults import described
from build_engines.serving.request import FinishReason, Generation
from build_engines.serving.tensors import ParsedRequest

logger = logging.getLogger(__name__)

ResponseTensors = dict[str, npt.NDArray[Any]]


class Channel(Protocol):
    """The sender of one request's responses. Used only by the delivery thread."""

    def send(self, tensors: ResponseTensors, *, final: bool) -> None:
        """Sends one response."""

    def fail(self, message: str) -> None:
        """Sends an error, which ends the request."""

    def is_cancelled(self) -> bool:
        """Whether the client has cancelled the request."""


class Stream:
    """The output of one request: what was sent of its generation."""

    def __init__(
        self,
        generation: Generation,
        parsed: ParsedRequest,
        channel: Channel,
        wanted: frozenset[str],
    ) -> None:
        self.generation = generation
        self.channel = channel
        self._parsed = parsed
        self._wanted = wanted
        self._sent = 0
        self.sent_at = 0.0
        self.checked_at = time.monotonic()

    def due(self, now: float, window_s: float) -> bool:
        """Whether a response should be sent now: the first token and the end at once, other tokens
        when the window since the last response has passed.
        """
        generation = self.generation
        if generation.finish is not None:
            return True
        if not self._parsed.streaming or len(generation.token_ids) == self._sent:
            return False
        return self._sent == 0 or now - self.sent_at >= window_s

    @property
    def streaming(self) -> bool:
        """Whether tokens are sent before the end."""
        return self._parsed.streaming

    @property
    def behind(self) -> bool:
        """Whether unsent output waits for the window."""
        generation = self.generation
        return generation.finish is not None or (
            self._parsed.streaming and len(generation.token_ids) > self._sent
        )

    def deliver(self) -> bool:
        """Sends new output; returns True if that was the end."""
        # Read in this order: tokens appended before `finish` was set are then counted.
        finish = self.generation.finish
        count = len(self.generation.token_ids)
        if finish == "error":
            self.channel.fail(self.generation.error or "the request failed")
            return True
        begin, self._sent = self._sent, count
        self.channel.send(self._tensors(begin, count, finish), final=finish is not None)
        self.sent_at = time.monotonic()
        return finish is not None

    def _tensors(self, begin: int, end: int, finish: FinishReason | None) -> ResponseTensors:
        generation, parsed = self.generation, self._parsed
        fresh = np.array(generation.token_ids[begin:end], np.int32)
        shown = fresh
        if not parsed.streaming and not parsed.exclude_input:
            shown = np.concatenate([parsed.request.input_ids, fresh])
        tensors: ResponseTensors = {
            "output_ids": shown.reshape(1, 1, -1),
            "sequence_length": np.array([[len(shown)]], np.int32),
        }
        if parsed.request.log_probs:
            # TensorRT-LLM repeats all log-probabilities so far in every response.
            so_far = np.array(generation.log_probs[:end], np.float32)
            tensors["output_log_probs"] = so_far.reshape(1, 1, -1)
            tensors["cum_log_probs"] = so_far.sum(dtype=np.float32).reshape(1, 1)
        if parsed.request.top_log_probs:
            tensors.update(_top_tensors(generation, begin, end))
        if parsed.num_input_tokens:
            tensors["num_input_tokens"] = _int32(len(parsed.request.input_ids))
        if parsed.num_output_tokens:
            tensors["num_output_tokens"] = _int32(end - begin)
        if finish is not None:
            tensors["finish_reason"] = np.array([[finish]], np.object_)
            if parsed.perf_metrics:
                tensors.update(_metrics(generation))
        return {name: value for name, value in tensors.items() if name in self._wanted}


class Delivery:
    """The thread that serves all streams of one model."""

    def __init__(
        self, cancel: Callable[[Generation], None], *, window_s: float, cancel_check_s: float
    ) -> None:
        self._cancel = cancel
        self._window_s = window_s
        self._cancel_check_s = cancel_check_s
        self._streams: dict[Stream, None] = {}
        self._wake = threading.Event()
        self._idle = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._thread.start()

    def add(self, stream: Stream) -> None:
        """Serves `stream` until its end."""
        self._streams[stream] = None
        self._wake.set()

    def progressed(self, urgent: bool) -> None:
        """Called by the engine after a step. Wakes the thread only if it would not check in time:
        a wake-up for each token costs more than the token.
        """
        if urgent or self._idle:
            self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Sends the finished generations and joins the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause: float | None = None
        while not (self._closed and not self._streams):
            self._wake.wait(pause)
            self._wake.clear()
            self._idle = False
            started = time.monotonic()
            for stream in list(self._streams):
                self._serve(stream, started)
            pause = self._pause(time.monotonic() - started)

    def _pause(self, busy_s: float) -> float | None:
        """Returns how long to sleep, in seconds.

        With unsent tokens it is at least as long as the last round took: the engine then keeps half
        of the time when sending is slow, and several tokens are sent together.
        """
        streams = list(self._streams)
        # Set before the check: a token that comes after the check finds the thread idle and
        # wakes it; one that came before is seen.
        self._idle = any(stream.streaming for stream in streams)
        if any(stream.behind for stream in streams):
            self._idle = False
            return max(self._window_s, busy_s)
        return self._cancel_check_s if streams else None

    def _serve(self, stream: Stream, now: float) -> None:
        try:
            if stream.due(now, self._window_s) and stream.deliver():
                self._streams.pop(stream)
            elif now - stream.checked_at >= self._cancel_check_s:
                stream.checked_at = now
                if stream.channel.is_cancelled():
                    self._cancel(stream.generation)
        except Exception as error:
            logger.error("a response could not be sent: %s", described(error))
            self._cancel(stream.generation)
            self._streams.pop(stream)
            _give_up(stream)


def _give_up(stream: Stream) -> None:
    """Ends the request in any way that still works: a request without an end blocks the unload."""
    try:
        stream.channel.fail("the response could not be sent")
    except Exception as error:
        logger.error("a request could not be ended: %s", described(error))


def _int32(value: int) -> npt.NDArray[np.int32]:
    return np.array([[value]], np.int32)


def _top_tensors(generation: Generation, begin: int, end: int) -> ResponseTensors:
    fresh = generation.top_log_probs[begin:end]
    width = len(fresh[0][0]) if fresh else generation.request.top_log_probs
    ids = np.array([ids for ids, _ in fresh], np.int32).reshape(1, len(fresh), width)
    values = np.array([values for _, values in fresh], np.float32).reshape(1, len(fresh), width)
    return {"top_log_prob_ids": ids, "top_log_probs": values}


def _metrics(generation: Generation) -> ResponseTensors:
    timing, cache = generation.timing, generation.cache
    clocks = {
        "arrival_time_ns": timing.arrival,
        "first_scheduled_time_ns": timing.first_scheduled,
        "first_token_time_ns": timing.first_token,
        "last_token_time_ns": timing.last_token,
    }
    counts = {
        "kv_cache_alloc_new_blocks": cache.new_blocks,
        "kv_cache_reused_blocks": cache.reused_blocks,
        "kv_cache_alloc_total_blocks": cache.new_blocks + cache.reused_blocks,
    }
    tensors: ResponseTensors = {n: np.array([[v]], np.int64) for n, v in clocks.items()}
    return tensors | {name: _int32(value) for name, value in counts.items()}
