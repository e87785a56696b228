"""Raw calls to the CPU engine inside a real tritonserver, tensor by tensor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from orchestrator.settings import Settings, TritonSettings
from orchestrator.supervisor import Endpoint, Supervisor
from tests.unit.build_engines.conftest import ROOT

Tensors = dict[str, npt.NDArray[Any]]

_DTYPES = {
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "FP32": np.float32,
    "BOOL": np.bool_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_SCALARS = {"seed": np.uint64}


@dataclass(frozen=True, slots=True)
class Response:
    """One response of a stream: its tensors or its error."""

    tensors: Tensors
    error: str
    final: bool

    @property
    def token_ids(self) -> list[int]:
        """The tokens that this response adds."""
        ids: list[int] = self.tensors["output_ids"].ravel().tolist()
        return ids

    @property
    def finish_reason(self) -> str:
        """Why the generation ended; the final response of one that did not fail."""
        return bytes(self.tensors["finish_reason"].item()).decode()


def prompt(length: int, seed: int = 0) -> list[int]:
    """Token ids from a fixed seed."""
    ids: list[int] = np.random.default_rng(seed).integers(2, 250, length).tolist()
    return ids


def generate_tensors(ids: Sequence[int], output_len: int, **more: Any) -> Tensors:
    """The input tensors of one generation; scalars in `more` become `[1, 1]`."""
    values = {"input_lengths": len(ids), "request_output_len": output_len, **more}
    tensors: Tensors = {"input_ids": np.array([ids], np.int32)}
    for name, value in values.items():
        tensors[name] = value if isinstance(value, np.ndarray) else _scalar(name, value)
    return tensors


class Triton:
    """A client of one server. Close it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._metadata = (("triton-grpc-protocol-tok", endpoint.token),)
        self._channel = grpc.aio.insecure_channel(endpoint.url)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def stream(
        self, model: str, tensors: Tensors, *, request_id: str = "", outputs: Sequence[str] = ()
    ) -> AsyncIterator[Response]:
        """The responses of one generation, in order."""
        call = self._stub.ModelStreamInfer(
            iter([_request(model, tensors, request_id, outputs)]), metadata=self._metadata
        )
        try:
            async for message in call:
                reply = message.infer_response
                final = reply.parameters["triton_final_response"].bool_param
                yield Response(_tensors(reply), message.error_message, final)
        finally:
            call.cancel()

    async def collect(
        self, model: str, tensors: Tensors, *, request_id: str = "", outputs: Sequence[str] = ()
    ) -> list[Response]:
        """All responses of one generation."""
        return [
            response
            async for response in self.stream(
                model, tensors, request_id=request_id, outputs=outputs
            )
        ]

    async def tokens(self, model: str, tensors: Tensors) -> list[int]:
        """All tokens of one generation, which must succeed."""
        responses = await self.collect(model, tensors)
        assert not responses[-1].error, responses[-1].error
        return [token for response in responses for token in response.token_ids]

    async def infer(self, model: str, tensors: Tensors) -> Tensors:
        """The outputs of one call. Raises: grpc.RpcError."""
        request = _request(model, tensors, "", ())
        return _tensors(await self._stub.ModelInfer(request, metadata=self._metadata))

    async def load(self, model: str) -> None:
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        await self._stub.RepositoryModelLoad(request, metadata=self._metadata)

    async def unload(self, model: str, timeout_s: float = 10.0) -> None:
        """Unloads `model` and waits until it is gone."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        await self._stub.RepositoryModelUnload(request, metadata=self._metadata)
        async with asyncio.timeout(timeout_s):
            # Triton tells nobody when it is done.
            while await self._state(model) != ("UNAVAILABLE", "unloaded"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def probe(self) -> None:
        """Returns when the server is live. Raises: grpc.RpcError."""
        request = service_pb2.ServerLiveRequest()
        await self._stub.ServerLive(request, metadata=self._metadata)

    async def _state(self, model: str) -> tuple[str, str]:
        request = service_pb2.RepositoryIndexRequest()
        index = await self._stub.RepositoryIndex(request, metadata=self._metadata)
        return next((m.state, m.reason) for m in index.models if m.name == model)


@contextlib.asynccontextmanager
async def running(repository: Path, data_dir: Path, models: Sequence[str]) -> AsyncIterator[Triton]:
    """A supervised tritonserver with `models`, and a client of it."""
    if not (repository / "backends").exists():
        (repository / "backends").symlink_to(ROOT / "model_repository" / "backends")
    settings = Settings(data_dir=data_dir, triton=TritonSettings(repository=repository))
    supervisor = Supervisor(settings, models)
    triton = Triton(supervisor.endpoint)
    task = asyncio.create_task(supervisor.run(triton.probe))
    ready = asyncio.create_task(supervisor.ready())
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            await task
        assert not supervisor.state.failed_models, supervisor.state.failed_models
        yield triton
    finally:
        await triton.close()
        supervisor.ask_to_stop()
        await task
        ready.cancel()


def _scalar(name: str, value: Any) -> npt.NDArray[Any]:
    if isinstance(value, str):
        return np.array([[value.encode()]], np.object_)
    default = {bool: np.bool_, int: np.int32, float: np.float32}[type(value)]
    return np.array([[value]], _SCALARS.get(name, default))


def _request(
    model: str, tensors: Tensors, identity: str, outputs: Sequence[str]
) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model, id=identity)
    for name, value in tensors.items():
        is_text = value.dtype == np.object_
        datatype = "BYTES" if is_text else _NAMES[value.dtype]
        request.inputs.add(name=name, datatype=datatype, shape=value.shape)
        raw = b"".join(len(t).to_bytes(4, "little") + t for t in value.flat) if is_text else None
        request.raw_input_contents.append(value.tobytes() if raw is None else raw)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _tensors(reply: service_pb2.ModelInferResponse) -> Tensors:
    tensors: Tensors = {}
    for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            values: Any = np.array([raw[4:]], np.object_)
        else:
            values = np.frombuffer(raw, _DTYPES[output.datatype])
        tensors[output.name] = values.reshape(list(output.shape))
    return tensors
