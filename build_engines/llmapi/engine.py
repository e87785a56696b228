"""`tensorrt_llm.LLM` as an engine: one coroutine per generation on a separate event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from build_engines.llmapi.sampling import cache_salt, finish_reason, sampling_arguments, take
from build_engines.serving.faults import described
from build_engines.serving.request import Generation, Limits, QueueFullError, Request, RequestError

logger = logging.getLogger(__name__)

ARGUMENTS_FILE = "llm.json"


class LlmEngine:
    """Runs generations on an `LLM`. `submit` and `cancel` may be called from any thread."""

    def __init__(self, llm: Any, limits: Limits, on_progress: Callable[[bool], None]) -> None:
        self.limits = limits
        self._llm = llm
        self._on_progress = on_progress
        self._running: dict[Generation, Any] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Generation:
        """Passes a request to the engine, whose own scheduler queues it. Raises: RequestError."""
        parameters = _parameters(sampling_arguments(request))
        generation = Generation(request)
        generation.timing.arrival = time.monotonic_ns()
        with self._lock:
            limit = self.limits.max_queue_size
            if limit and len(self._running) >= limit + self.limits.max_batch_size:
                raise QueueFullError(f"{limit} requests wait already: Exceeds maximum queue size")
            self._running[generation] = None
        asyncio.run_coroutine_threadsafe(self._follow(generation, parameters), self._loop)
        return generation

    def cancel(self, generation: Generation) -> None:
        """Ends the generation soon, as `cancelled`; no effect on a finished one."""
        generation.cancel_requested = True
        self._loop.call_soon_threadsafe(self._abort, generation)

    def close(self) -> None:
        """Ends all running generations and releases the GPU."""
        with self._lock:
            left = list(self._running)
        for generation in left:
            generation.close("error", "the model is being unloaded")
        self._on_progress(True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._llm.shutdown()

    def _abort(self, generation: Generation) -> None:
        result = self._running.get(generation)
        if result is not None:
            result.abort()

    async def _follow(self, generation: Generation, parameters: Any) -> None:
        try:
            request = generation.request
            result = self._llm.generate_async(
                request.input_ids.tolist(),
                parameters,
                streaming=True,
                cache_salt=cache_salt(request),
            )
            generation.timing.first_scheduled = time.monotonic_ns()
            self._running[generation] = result
            if generation.cancel_requested:
                result.abort()
            async for output in result:
                self._take(generation, output.outputs[0])
            reason = finish_reason(result.outputs[0].finish_reason)
            generation.close("cancelled" if generation.cancel_requested else reason)
        except RequestError as error:
            generation.close("error", str(error))
        except Exception as error:
            logger.error("a generation failed: %s", described(error))
            generation.close("error", "the engine failed on this request")
        finally:
            with self._lock:
                self._running.pop(generation, None)
            self._on_progress(True)

    def _take(self, generation: Generation, output: Any) -> None:
        # Counted from the tokens taken, not with `token_ids_diff`, which skips tokens when two
        # responses arrive together.
        begin = len(generation.token_ids)
        tokens = output.token_ids[begin:]
        known = [
            {token: float(value.logprob) for token, value in position.items()}
            for position in (output.logprobs or [])[begin : begin + len(tokens)]
        ]
        self._on_progress(take(generation, tokens, known, time.monotonic_ns()))


def open_llm(folder: Path, arguments: Mapping[str, Any]) -> Any:
    """Opens the `LLM` of the checkpoint in `folder`. Imports TensorRT-LLM, which takes a while."""
    from tensorrt_llm import LLM
    from tensorrt_llm.llmapi import KvCacheConfig

    given = dict(arguments)
    given["kv_cache_config"] = KvCacheConfig(**given.get("kv_cache_config", {}))
    return LLM(model=str(folder), skip_tokenizer_init=False, **given)


def _parameters(arguments: dict[str, Any]) -> Any:
    import torch
    from tensorrt_llm import SamplingParams
    from tensorrt_llm.sampling_params import GuidedDecodingParams

    if (guide := arguments.get("guided_decoding")) is not None:
        arguments["guided_decoding"] = GuidedDecodingParams(**guide)
    if (bias := arguments.get("embedding_bias")) is not None:
        arguments["embedding_bias"] = torch.from_numpy(bias)
    return SamplingParams(**arguments)
