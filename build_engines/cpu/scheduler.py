"""In-flight batching: chooses the sequences of the next step, and uses its logits."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from build_engines.cpu.blocks import BlockPool
from build_engines.cpu.runtime import DecoderRuntime, StepInputs
from build_engines.cpu.sequence import Sequence
from build_engines.serving.faults import described
from build_engines.serving.request import Limits, RequestError

logger = logging.getLogger(__name__)

#: Max time for which a step with prompt tokens should delay running streams, and for which a step
#: with only prompts should delay new requests.
_BESIDE_STREAMS_S = 0.05
_ALONE_S = 0.25
_SAMPLING_FAILED = "the engine failed while choosing a token of this request"
_CHUNKS = (32, 64, 128, 256, 512, 1024)


@dataclass(slots=True)
class _Plan:
    """One step: `fed` are sequences with their token counts; `answered` of them get logits."""

    inputs: StepInputs
    fed: list[tuple[Sequence, int]]
    answered: list[Sequence]
    decode_only: bool


class Scheduler:
    """Runs sequences, which join and leave at every step. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        runtime: DecoderRuntime,
        limits: Limits,
        *,
        reuse: bool = True,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._runtime = runtime
        self._limits = limits
        self.now_ns = clock_ns
        self.pool = BlockPool(runtime.num_blocks, reuse)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._plan: _Plan | None = None
        self._token_s = 0.0

    def add(self, sequence: Sequence) -> None:
        """Adds a sequence to the end of the queue."""
        self.waiting.append(sequence)

    def step(self) -> bool:
        """Runs one step; returns True if a generation got its first token or finished."""
        news = self._drop_cancelled()
        self._admit()
        if not self.running:
            return news
        plan = self._next_plan()
        started = time.perf_counter()
        try:
            logits = self._runtime.run(plan.inputs)
        except Exception as error:
            # Any error affects only the sequences in this step; the loop goes on.
            logger.error("a step of %d sequences failed: %s", len(plan.fed), described(error))
            self._fail(plan)
            return True
        self._note_speed(plan, time.perf_counter() - started)
        return self._take(plan, logits) or news

    def abort(self, message: str) -> None:
        """Ends all generations with an error."""
        for sequence in [*self.waiting, *self.running]:
            sequence.generation.close("error", message)
            sequence.release(self.pool, trusted=False)
        self.waiting.clear()
        self.running.clear()
        self._plan = None

    def _drop_cancelled(self) -> bool:
        cancelled = [s for s in self.running if s.generation.cancel_requested]
        for sequence in cancelled:
            self._leave(sequence)
            sequence.generation.close("cancelled")
        queued = [s for s in self.waiting if s.generation.cancel_requested]
        for sequence in queued:
            self.waiting.remove(sequence)
            sequence.generation.close("cancelled")
        return bool(cancelled or queued)

    def _admit(self) -> None:
        """Admits first come, first served: no request overtakes one that waits for blocks."""
        while self.waiting and len(self.running) < self._limits.max_batch_size:
            if not self.waiting[0].reserve(self.pool):
                return
            sequence = self.waiting.popleft()
            sequence.generation.timing.first_scheduled = self.now_ns()
            self.running.append(sequence)
            self._plan = None

    def _next_plan(self) -> _Plan:
        if self._plan is None or not self._plan.decode_only:
            self._plan = self._composed()
        return self._plan

    def _composed(self) -> _Plan:
        decoding = [s for s in self.running if not s.prefilling]
        fed = [(s, 1) for s in decoding]
        budget = self._chunk(_BESIDE_STREAMS_S if decoding else _ALONE_S)
        answered = list(decoding)
        for sequence in self.running:
            if not sequence.prefilling or budget <= 0:
                continue
            count = min(budget, len(sequence.prompt) - sequence.computed)
            budget -= count
            fed.append((sequence, count))
            if sequence.computed + count == len(sequence.prompt):
                answered.append(sequence)
        return _Plan(_step_inputs(fed), fed, answered, len(fed) == len(decoding))

    def _chunk(self, target_s: float) -> int:
        """Returns the number of prompt tokens for a step of about `target_s`."""
        if not self._token_s:
            return _CHUNKS[0]
        fitting = target_s / self._token_s
        return max((c for c in _CHUNKS if c <= fitting), default=_CHUNKS[0])

    def _note_speed(self, plan: _Plan, elapsed_s: float) -> None:
        tokens = len(plan.inputs.input_ids)
        if not plan.decode_only and tokens >= _CHUNKS[0]:
            per_token = elapsed_s / tokens
            self._token_s = 0.5 * (self._token_s or per_token) + 0.5 * per_token

    def _take(self, plan: _Plan, logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bool:
        if not plan.decode_only:
            self._note_computed(plan)
        if not plan.answered:
            return False
        largest = logits.argmax(axis=1).tolist()
        now_ns = self.now_ns()
        ended: list[Sequence] = []
        news = False
        for index, sequence in enumerate(plan.answered):
            news = news or not sequence.generation.token_ids
            try:
                if sequence.take(logits[index], largest[index], now_ns):
                    ended.append(sequence)
            except Exception as error:
                # Caused by a grammar or a setting of this request; the others go on.
                logger.warning("a request failed while sampling: %s", described(error))
                known = isinstance(error, RequestError)
                sequence.generation.close("error", str(error) if known else _SAMPLING_FAILED)
                ended.append(sequence)
        for sequence in ended:
            self._leave(sequence)
        if not ended and plan.decode_only:
            _advance(plan)
        return news or bool(ended)

    def _note_computed(self, plan: _Plan) -> None:
        for sequence, count in plan.fed:
            if sequence.prefilling:
                sequence.computed += count
                sequence.publish(self.pool, sequence.digests, sequence.computed)

    def _leave(self, sequence: Sequence, *, trusted: bool = True) -> None:
        self.running.remove(sequence)
        sequence.release(self.pool, trusted=trusted)
        self._plan = None

    def _fail(self, plan: _Plan) -> None:
        for sequence, _ in plan.fed:
            sequence.generation.close("error", "the engine failed while computing this request")
            self._leave(sequence, trusted=False)


def _advance(plan: _Plan) -> None:
    """Moves the same sequences one token further, in the arrays that are already bound."""
    inputs = plan.inputs
    inputs.input_ids[:] = [s.generation.token_ids[-1] for s in plan.answered]
    inputs.position_ids += 1
    inputs.past_lens += 1
    inputs.max_context_len += 1


def _step_inputs(fed: list[tuple[Sequence, int]]) -> StepInputs:
    pasts, ids, positions, rows = [], [], [], []
    total = 0
    for sequence, count in fed:
        past = sequence.computed if sequence.prefilling else sequence.position
        if sequence.prefilling:
            ids.append(sequence.prompt[past : past + count])
        else:
            ids.append(np.array([sequence.last_token]))
        positions.append(np.arange(past, past + count))
        pasts.append(past)
        total += count
        if past + count >= len(sequence.prompt):
            rows.append(total - 1)
    counts = [count for _, count in fed]
    return StepInputs(
        input_ids=np.concatenate(ids).astype(np.int64),
        position_ids=np.concatenate(positions).astype(np.int64),
        past_lens=np.array(pasts, np.int32),
        subsequence_begins=_offsets(counts),
        block_indices=np.concatenate([sequence.blocks for sequence, _ in fed]),
        block_indices_begins=_offsets([len(sequence.blocks) for sequence, _ in fed]),
        max_context_len=np.array(max(p + c for p, c in zip(pasts, counts, strict=True)), np.int32),
        output_rows=np.array(rows, np.int64),
    )


def _offsets(counts: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
