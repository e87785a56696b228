"""The engine: a thread that runs the scheduler, and the entry point for requests."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from build_engines.cpu.guided import COMPILERS, GuideCompiler
from build_engines.cpu.runtime import DecoderRuntime
from build_engines.cpu.scheduler import Scheduler
from build_engines.cpu.sequence import Sequence
from build_engines.serving.faults import described
from build_engines.serving.request import (
    Generation,
    Limits,
    QueueFullError,
    Request,
    RequestError,
)

logger = logging.getLogger(__name__)

#: Called after a step: with True when a generation got its first token or finished.
Progress = Callable[[bool], None]

#: Stack bytes of a thread that compiles guides: several times what a trial of one may use.
_COMPILER_STACK = 16 << 20


class Engine:
    """Runs generations concurrently. `submit` and `cancel` may be called from any thread."""

    def __init__(
        self,
        runtime: DecoderRuntime,
        limits: Limits,
        guides: GuideCompiler,
        *,
        reuse: bool = True,
        on_progress: Progress = lambda _urgent: None,
    ) -> None:
        self.limits = limits
        self._guides = guides
        self._runtime = runtime
        self._scheduler = Scheduler(runtime, limits, reuse=reuse)
        self._on_progress = on_progress
        self._inbox: deque[Sequence] = deque()
        self._compiling: set[Generation] = set()
        self._work = threading.Event()
        self._lock = threading.Lock()
        self._closed = False
        # Separate threads, so that a slow grammar delays only other grammars.
        self._compiler = _compiler()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Generation:
        """Queues a request. Raises: RequestError, QueueFullError."""
        generation = Generation(request)
        generation.timing.arrival = self._scheduler.now_ns()
        with self._lock:
            if self._closed:
                raise RequestError("the model is being unloaded")
            self._check_room(request)
            if request.guide is not None:
                self._compiling.add(generation)
        if request.guide is not None:
            self._compiler.submit(self._compile, generation)
        else:
            self._enqueue(Sequence(generation, *self._sizes, None))
        return generation

    def cancel(self, generation: Generation) -> None:
        """Ends the generation at the next step, as `cancelled`; no effect on a finished one."""
        generation.cancel_requested = True
        self._work.set()

    def close(self) -> None:
        """Ends all running generations and joins the threads."""
        with self._lock:
            self._closed = True
        self._compiler.shutdown(wait=True, cancel_futures=True)
        self._guides.close()
        self._work.set()
        self._thread.join()
        for generation in self._compiling:
            generation.close("error", "the model is being unloaded")
        self._on_progress(True)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self._runtime.vocab_size, self._runtime.block_size

    def _check_room(self, request: Request) -> None:
        tokens = len(request.input_ids) + request.max_new_tokens - 1
        cache_tokens = self._runtime.num_blocks * self._runtime.block_size
        if tokens > cache_tokens:
            raise RequestError(
                f"`request_output_len`: {len(request.input_ids)} prompt tokens and "
                f"{request.max_new_tokens} more exceed the key/value cache of {cache_tokens} tokens"
            )
        free = self.limits.max_batch_size - len(self._scheduler.running)
        queued = len(self._inbox) + len(self._compiling) + len(self._scheduler.waiting)
        limit = self.limits.max_queue_size
        if limit and queued >= limit + free:
            raise QueueFullError(f"{limit} requests wait already: Exceeds maximum queue size")

    def _compile(self, generation: Generation) -> None:
        guide = generation.request.guide
        assert guide is not None
        try:
            if generation.cancel_requested:
                generation.close("cancelled")
                self._on_progress(True)
                return
            matcher = self._guides.compile(guide)
            self._enqueue(Sequence(generation, *self._sizes, matcher))
        except Exception as error:
            text = str(error) if isinstance(error, RequestError) else "the guide failed to compile"
            logger.info("guide refused: %s", described(error))
            generation.close("error", text)
            self._on_progress(True)
        finally:
            with self._lock:
                self._compiling.discard(generation)

    def _enqueue(self, sequence: Sequence) -> None:
        self._inbox.append(sequence)
        self._work.set()

    def _run(self) -> None:
        scheduler = self._scheduler
        while not self._closed:
            # Cleared before the check, so that a request that arrives meanwhile sets it again.
            self._work.clear()
            while self._inbox:
                scheduler.add(self._inbox.popleft())
            try:
                urgent = scheduler.step()
            except Exception as error:
                logger.error("the scheduler failed: %s", described(error))
                scheduler.abort("the engine failed while scheduling this request")
                urgent = True
            self._on_progress(urgent)
            if not scheduler.running and not scheduler.waiting:
                self._work.wait()
        while self._inbox:
            scheduler.add(self._inbox.popleft())
        scheduler.abort("the model is being unloaded")


def _compiler() -> ThreadPoolExecutor:
    """Creates threads that compile guides, with a stack of known size."""
    pool = ThreadPoolExecutor(COMPILERS, thread_name_prefix="guide")
    together = threading.Barrier(COMPILERS + 1)
    usual = threading.stack_size(_COMPILER_STACK)
    try:
        # All threads start now: a thread gets the stack size that is set when it starts.
        for _ in range(COMPILERS):
            pool.submit(together.wait)
        together.wait()
    finally:
        threading.stack_size(usual)
    return pool
