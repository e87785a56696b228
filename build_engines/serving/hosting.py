"""The code inside the stub of Triton's python backend, for any engine.

A stub is one process per model. This module has everything that needs Triton's own types; the
package `triton_python_backend_utils` exists only in the stub.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils  # provided by the stub

from build_engines.serving.artefacts import Artefacts, open_artefacts
from build_engines.serving.delivery import Delivery, Stream
from build_engines.serving.faults import described
from build_engines.serving.request import Generation, Limits, Request, RequestError
from build_engines.serving.tensors import parse_request, wants_stop
from build_engines.serving.texts import Text, parse_texts

_CLOSE_TIMEOUT_S = 10.0

#: Called after a step: with True when a generation got its first token or finished.
Progress = Callable[[bool], None]


class GeneratingEngine(Protocol):
    """Runs generations concurrently; may be called from any thread."""

    limits: Limits

    def submit(self, request: Request) -> Generation:
        """Queues a request. Raises: RequestError."""

    def cancel(self, generation: Generation) -> None:
        """Ends the generation soon, as `cancelled`."""

    def close(self) -> None:
        """Ends all running generations."""


class EmbeddingEngine(Protocol):
    """Turns texts into vectors."""

    def embed(self, texts: list[Text]) -> npt.NDArray[np.float32]:
        """Returns vectors float32[len(texts), dimension], in the order of `texts`."""


class Configuration:
    """The arguments that Triton passes to a model when it is loaded."""

    def __init__(self, arguments: Mapping[str, str]) -> None:
        config = json.loads(arguments["model_config"])
        self._values = {k: v["string_value"] for k, v in config.get("parameters", {}).items()}
        self._folder = Path(arguments["model_repository"]) / arguments["model_version"]

    def artefacts(self, target: str) -> Artefacts:
        """Opens the model's folder. Raises: ValueError when it was built for another target."""
        return open_artefacts(self._folder, target)

    def text(self, name: str, default: str = "") -> str:
        """Returns a parameter of `config.pbtxt`."""
        return str(self._values.get(name, default))

    def flag(self, name: str, default: bool) -> bool:
        """Returns a parameter that is `true` or `false`."""
        return self.text(name, str(default).lower()) == "true"

    @property
    def max_queue_size(self) -> int:
        """The max number of waiting requests; 0 for no limit."""
        return int(self.text("max_queue_size", "0"))


class Embedding:
    """A loaded embedding model."""

    def __init__(self, engine: EmbeddingEngine, artefacts: Artefacts) -> None:
        self._limits: Limits = artefacts.limits(0)
        self._types = int(artefacts.manifest["limits"]["type_vocab_size"])
        self._engine = engine

    def execute(self, requests: list[Any]) -> list[Any]:
        """Returns one response for each request, in order."""
        parsed: list[Any] = []
        for request in requests:
            try:
                parsed.append(parse_texts(_tensors(request), self._limits, self._types))
            except RequestError as error:
                parsed.append(error)
        texts = [text for part in parsed if isinstance(part, list) for text in part]
        vectors = self._engine.embed(texts)
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
        """Releases the engine."""
        del self._engine


class Generating:
    """A loaded generative model. `open_engine` gets the callback for progress."""

    def __init__(
        self,
        open_engine: Callable[[Progress], GeneratingEngine],
        configuration: Configuration,
    ) -> None:
        self._exclude_input = configuration.flag("exclude_input_in_output", False)
        self._by_id: dict[str, list[Generation]] = {}
        self._lock = threading.Lock()
        self._delivery = Delivery(
            self._cancel,
            window_s=float(configuration.text("response_window_ms", "10")) / 1000,
            cancel_check_s=float(configuration.text("cancellation_check_period_ms", "100")) / 1000,
        )
        self._engine = open_engine(self._delivery.progressed)

    def execute(self, requests: list[Any]) -> None:
        """Starts the requests; each one is answered through its own channel."""
        for request in requests:
            channel = _Channel(request.get_response_sender())
            try:
                self._accept(request, channel)
            except RequestError as error:
                channel.fail(str(error))
            except Exception as error:
                pb_utils.Logger.log_error(f"a request could not be read: {described(error)}")
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
        """Ends all running generations and joins the threads."""
        self._engine.close()
        self._delivery.close(_CLOSE_TIMEOUT_S)


class _Channel:
    """One request's response sender, adapted to the delivery thread."""

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


def _error_response(message: str) -> Any:
    return pb_utils.InferenceResponse([], pb_utils.TritonError(message))


def _tensors(request: Any) -> dict[str, Any]:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
