"""Triton's `cpu` backend: hands requests to the CPU engine and its tokens back.

Runs inside the stub of Triton's python backend; one process per model. Model folders hold
artefacts only. The logic is in `build_engines.cpu`; here is what needs Triton's own types.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # provided by the stub

from build_engines.cpu.delivery import Delivery, Stream
from build_engines.cpu.embedder import Embedder, parse_texts
from build_engines.cpu.request import Generation, Limits, RequestError
from build_engines.cpu.serving import Artefacts, open_artefacts, open_embedder, open_engine
from build_engines.cpu.tensors import parse_request, wants_stop

#: The engine and the delivery thread hand the interpreter to each other many times a step; the
#: default of 5 ms is longer than a step.
_SWITCH_INTERVAL_S = 0.0005
_CLOSE_TIMEOUT_S = 10.0


class TritonPythonModel:
    """One loaded model of either task."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the artefacts. What it raises becomes Triton's reason for not loading."""
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        config = json.loads(args["model_config"])
        artefacts = open_artefacts(Path(args["model_repository"]) / args["model_version"])
        self._served: _Embedding | _Generating
        if artefacts.task == "embed":
            self._served = _Embedding(artefacts)
        else:
            self._served = _Generating(artefacts, config)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Responses in order for embeddings, None for generations: their channel answers."""
        return self._served.execute(requests)

    def finalize(self) -> None:
        """Ends what runs and joins the threads."""
        self._served.close()


class _Embedding:
    def __init__(self, artefacts: Artefacts) -> None:
        self._limits: Limits = artefacts.limits(0)
        self._types = int(artefacts.manifest["limits"]["type_vocab_size"])
        self._embedder: Embedder = open_embedder(artefacts, _threads())

    def execute(self, requests: list[Any]) -> list[Any]:
        parsed: list[Any] = []
        for request in requests:
            try:
                parsed.append(parse_texts(_tensors(request), self._limits, self._types))
            except RequestError as error:
                parsed.append(error)
        texts = [text for part in parsed if isinstance(part, list) for text in part]
        vectors = self._embedder.embed(texts)
        responses, begin = [], 0
        for part in parsed:
            if isinstance(part, RequestError):
                responses.append(_error_response(str(part)))
                continue
            rows = np.ascontiguousarray(vectors[begin : begin + len(part)])
            begin += len(part)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("embedding", rows)]))
        return responses

    def close(self) -> None:
        del self._embedder


class _Generating:
    def __init__(self, artefacts: Artefacts, config: dict[str, Any]) -> None:
        parameters = {k: v["string_value"] for k, v in config.get("parameters", {}).items()}
        self._exclude_input = parameters.get("exclude_input_in_output", "false") == "true"
        self._by_id: dict[str, list[Generation]] = {}
        self._lock = threading.Lock()
        self._delivery = Delivery(
            self._cancel,
            window_s=float(parameters.get("response_window_ms", "10")) / 1000,
            cancel_check_s=float(parameters.get("cancellation_check_period_ms", "100")) / 1000,
        )
        self._engine = open_engine(
            artefacts,
            max_queue_size=int(parameters.get("max_queue_size", "0")),
            reuse=parameters.get("enable_kv_cache_reuse", "true") == "true",
            on_progress=self._delivery.progressed,
            threads=_threads(),
        )

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            channel = _Channel(request.get_response_sender())
            try:
                self._accept(request, channel)
            except RequestError as error:
                channel.fail(str(error))
            except Exception as error:
                pb_utils.Logger.log_error(f"a request could not be read: {error!r}")
                channel.fail("the request could not be read")

    def _accept(self, request: Any, channel: _Channel) -> None:
        tensors = _tensors(request)
        identity = request.request_id()
        if wants_stop(tensors):
            self._stop(identity)
            channel.send({}, final=True)
            return
        parsed = parse_request(tensors, self._engine.limits, exclude_input=self._exclude_input)
        generation = self._engine.submit(parsed.request)
        if identity:
            channel.on_end = lambda: self._forget(identity, generation)
            with self._lock:
                self._by_id.setdefault(identity, []).append(generation)
        wanted = frozenset(request.requested_output_names())
        self._delivery.add(Stream(generation, parsed, channel, wanted))

    def _cancel(self, generation: Generation) -> None:
        self._engine.cancel(generation)

    def _stop(self, identity: str) -> None:
        if not identity:
            raise RequestError("`stop` needs the id of the request that it ends")
        with self._lock:
            running = list(self._by_id.get(identity, ()))
        for generation in running:
            self._engine.cancel(generation)

    def _forget(self, identity: str, generation: Generation) -> None:
        with self._lock:
            running = self._by_id.get(identity, [])
            if generation in running:
                running.remove(generation)
            if not running:
                self._by_id.pop(identity, None)

    def close(self) -> None:
        self._engine.close()
        self._delivery.close(_CLOSE_TIMEOUT_S)


class _Channel:
    """One request's response sender, in the form that the delivery thread uses."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self.on_end: Callable[[], None] = lambda: None

    def send(self, tensors: dict[str, Any], *, final: bool) -> None:
        outputs = [pb_utils.Tensor(name, value) for name, value in tensors.items()]
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        if final:
            self.on_end()
        self._sender.send(pb_utils.InferenceResponse(outputs), flags=flags)

    def fail(self, message: str) -> None:
        self.on_end()
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._sender.send(_error_response(message), flags=flags)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())


def _threads() -> int:
    """What the supervisor was told to give each engine; 0 takes one for each core."""
    return int(os.environ.get("CPU_ENGINE_THREADS", "0"))


def _error_response(message: str) -> Any:
    return pb_utils.InferenceResponse([], pb_utils.TritonError(message))


def _tensors(request: Any) -> dict[str, Any]:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
