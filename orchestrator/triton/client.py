"""Calls to Triton: one gRPC stream per generation, generated messages, no convenience client.

The convenience client rebuilds messages per call, hides the final flag and loses request ids on
errors, so `service_pb2` is used directly.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from google.protobuf.message import Message

from orchestrator.core.errors import Overloaded
from orchestrator.telemetry import engine_metadata
from orchestrator.triton import encoding, errors
from orchestrator.triton.contract import GenerateCall
from orchestrator.triton.embedding import EmbedCall, embed_request, read_rows
from orchestrator.triton.http2 import Http2Channel
from orchestrator.triton.messages import service_pb2
from orchestrator.triton.stream import METHOD, TokenStream
from orchestrator.triton.transport import RpcFailed, Transport

logger = logging.getLogger(__name__)

STOP_AGAIN_S = 0.5
MAX_EMBED_CALLS = 512
_KEPT = 0.8
"""The weight that older answers keep in a model's pace each time another answer ends."""
PROTOCOL_TOKEN_HEADER = "triton-grpc-protocol-tok"  # noqa: S105  # a header's name, not a secret


@dataclass(frozen=True, slots=True)
class TritonEndpoint:
    """Where a Triton listens and how to connect to it. `url` is `host:port` or `unix:/path`."""

    url: str
    token: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    tls: bool = False
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    transport: Literal["http2", "grpc"] = "http2"
    """Our own HTTP/2, or the gRPC library's. TLS always uses the library."""
    server_id: str | None = None
    """The `--id` that the server must report, if we chose it."""

    @property
    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata that every call carries."""
        token = ((PROTOCOL_TOKEN_HEADER, self.token),) if self.token else ()
        return (*self.metadata, *token)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds."""

    request_s: float = 600.0
    cancel_drain_s: float = 5.0
    control_s: float = 5.0
    silence_s: float = 1.0
    """Longest expected time to a whole answer for which streaming may be turned off."""


class Pace:
    """The recent time per token of one model, waiting in its queue included."""

    __slots__ = ("_spent_s", "_tokens")

    def __init__(self) -> None:
        self._spent_s = self._tokens = 0.0

    @property
    def token_s(self) -> float:
        """Seconds per token."""
        return self._spent_s / self._tokens

    def took(self, spent_s: float, tokens: int) -> None:
        """Records an answer of `tokens` tokens that took `spent_s` seconds."""
        self._spent_s = _KEPT * self._spent_s + spent_s
        self._tokens = _KEPT * self._tokens + tokens


class TritonClient:
    """One channel to one Triton. Close it; closing ends what is still in flight."""

    def __init__(
        self,
        endpoint: TritonEndpoint,
        timeouts: Timeouts | None = None,
        *,
        processes: int = 1,
    ) -> None:
        """`processes` of ours share the Triton."""
        self._processes = processes
        self._endpoint = endpoint
        self._timeouts = timeouts or Timeouts()
        self._metadata = endpoint.call_metadata
        self._transport = _transport(endpoint)
        self._stopping: set[asyncio.Task[None]] = set()
        self._calls: set[EmbedCall] = set()
        self._streams: set[TokenStream] = set()
        self._answered_at: dict[str, float] = {}
        self._paces: dict[str, Pace] = {}
        self._most_silent: dict[str, int] = {}
        self._silent: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """The address where Triton listens."""
        return self._endpoint.url

    @property
    def in_flight(self) -> int:
        """Number of calls that have not ended in the engine, stopped generations included."""
        return len(self._streams) + len(self._calls)

    def last_answer_at(self, model: str | None = None) -> float:
        """When `model`, or any model, last answered, by `time.monotonic()`; 0 if never."""
        latest = max(
            (one.answered_at for one in self._streams if model in (None, one.call.model)),
            default=0.0,
        )
        if model is not None:
            return max(latest, self._answered_at.get(model, 0.0))
        return max(latest, *self._answered_at.values(), 0.0)

    def fail_in_flight(self, model: str) -> None:
        """Fails all calls of `model` that are in flight: each reader gets its 503 now."""
        for stream in [stream for stream in self._streams if stream.call.model == model]:
            stream.give_up()
        for call in [call for call in self._calls if call.model == model]:
            call.give_up()

    def allow_whole(self, model: str, most: int) -> None:
        """Sets the limit of concurrent non-streamed answers for `model` (default 0)."""
        self._most_silent[model] = most // self._processes

    async def close(self) -> None:
        """Stops what is in flight, waits for it within the drain time, closes the channel."""
        for stream in list(self._streams):
            stream.stop()
        if pending := [*self._stopping, *(call.over for call in self._calls)]:
            await asyncio.wait(pending, timeout=self._timeouts.cancel_drain_s)
        for stream in list(self._streams):
            stream.cut()
        await self._transport.close()

    def generate(self, call: GenerateCall, *, streaming: bool | None = None) -> TokenStream:
        """Starts `call` and returns its stream of chunks at once.

        The stream belongs to the caller, who iterates it to its end or stops it. If `streaming` is
        `None`, the client asks for a single response only if the call allows one and is short.
        """
        if streaming is None:
            streaming = not (call.whole and self._is_soon_over(call))
        stream = TokenStream(
            call,
            streaming=streaming,
            on_stop=self._stop,
            on_end=self._end,
        )
        self._streams.add(stream)
        if not streaming:
            self._silent[call.model] += 1
        stream.start(
            self._transport,
            metadata=(*self._metadata, *engine_metadata()),
            timeout_s=self._timeouts.request_s + self._timeouts.cancel_drain_s,
        )
        return stream

    def _is_soon_over(self, call: GenerateCall) -> bool:
        """Whether `call` may be asked for a single response, with no tokens before it.

        An engine that sends nothing while it computes, and is too full to answer a probe, would be
        considered dead. So the silence must be short, as far as the pace can predict it, and the
        number of silent calls is limited, so that others still stream.
        """
        model = call.model
        pace = self._paces.get(model)
        return (
            pace is not None
            and self._silent[model] < self._most_silent.get(model, 0)
            and call.max_tokens * pace.token_s <= self._timeouts.silence_s
        )

    def _end(self, stream: TokenStream) -> None:
        self._streams.discard(stream)
        model = stream.call.model
        if not stream.streaming:
            self._silent[model] -= 1
        if not stream.answered_at:
            return
        self._answered_at[model] = max(stream.answered_at, self._answered_at.get(model, 0.0))
        if stream.produced:
            if (pace := self._paces.get(model)) is None:
                pace = self._paces[model] = Pace()
            pace.took(stream.answered_at - stream.began_at, stream.produced)

    async def embed(
        self, model: str, request_id: str, rows: Sequence[Sequence[int]]
    ) -> list[memoryview]:
        """One float32 little-endian vector for each row of token ids, in their order.

        If the caller is cancelled, the call still runs to its end: it is one batch and is not cut.
        Raises: Overloaded, because nothing limits Triton's own queue of a batching model.
        """
        if len(self._calls) >= MAX_EMBED_CALLS:
            raise Overloaded("The model's queue is full.", retry_after_s=errors.RETRY_AFTER_S)
        call = EmbedCall(model, request_id, on_end=self._end_call)
        self._calls.add(call)
        call.start(
            self._transport,
            embed_request(model, request_id, rows),
            metadata=(*self._metadata, *engine_metadata()),
            timeout_s=self._timeouts.request_s,
        )
        return read_rows(await call.answer())

    def _end_call(self, call: EmbedCall) -> None:
        self._calls.discard(call)
        if call.answered_at:
            self._answered_at[call.model] = call.answered_at

    async def server_id(self) -> str:
        """The name that the server was started with. Raises: GatewayError."""
        request = service_pb2.ServerMetadataRequest()
        answer = await self._control("ServerMetadata", request)
        return str(service_pb2.ServerMetadataResponse.FromString(answer).name)

    async def server_version(self) -> str:
        """Triton's version. Raises: GatewayError."""
        answer = await self._control("ServerMetadata", service_pb2.ServerMetadataRequest())
        return str(service_pb2.ServerMetadataResponse.FromString(answer).version)

    async def model_ready(self, model: str) -> bool:
        """Whether Triton has `model` loaded. Also False when Triton is out of reach.

        While Triton is away this is asked many times a second, so failures are not logged.
        """
        request = service_pb2.ModelReadyRequest(name=model)
        try:
            answer = await self._unary("ModelReady", request)
        except RpcFailed:
            return False
        return bool(service_pb2.ModelReadyResponse.FromString(answer).ready)

    async def _control(self, method: str, request: Message) -> bytes:
        """Returns the answer to a call that serves no request. Raises: GatewayError."""
        try:
            return await self._unary(method, request)
        except RpcFailed as error:
            raise errors.from_status(error.status, model="-", request_id="control") from error

    async def _unary(self, method: str, request: Message) -> bytes:
        """Raises: RpcFailed."""
        return await self._transport.unary(
            method,
            request.SerializeToString(),
            metadata=self._metadata,
            timeout_s=self._timeouts.control_s,
        )

    def _stop(self, stream: TokenStream) -> None:
        """Stops `stream` in the engine, in the background. The caller does not wait."""
        task = asyncio.create_task(self._stop_and_drain(stream))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _stop_and_drain(self, stream: TokenStream) -> None:
        """Asks the engine to stop and waits for the final response; cuts the call if none comes.

        Cutting first would be simpler and is unsafe: a call that is dropped around its
        completion leaks a reference inside Triton 2.51, after which a model never unloads.
        """
        deadline = time.monotonic() + self._timeouts.cancel_drain_s
        while not stream.has_ended and time.monotonic() < deadline:
            # A stop that overtakes its request finds nothing to end, so it is sent again.
            await self._send_stop(stream)
            await stream.ended(timeout_s=min(STOP_AGAIN_S, max(0.0, deadline - time.monotonic())))
        if not stream.has_ended:
            logger.warning("engine did not stop %s in time", stream.call.request_id)
            stream.cut()

    async def _send_stop(self, stream: TokenStream) -> None:
        ended = asyncio.get_running_loop().create_future()
        self._transport.start(
            METHOD,
            encoding.stop_request(stream.call.model, stream.call.request_id),
            metadata=self._metadata,
            timeout_s=self._timeouts.cancel_drain_s,
            on_message=_pass_over,
            on_end=ended.set_result,
        )
        await ended


def _pass_over(answer: bytes) -> None:
    """Ignores the answer to a stop request: it holds no information."""


def _transport(endpoint: TritonEndpoint) -> Transport:
    if not endpoint.tls and endpoint.transport == "http2":
        return Http2Channel(endpoint.url)
    # Imported where it is used: the gRPC library costs 10 MB and threads.
    from orchestrator.triton.grpc_aio import GrpcAioChannel

    if not endpoint.tls:
        return GrpcAioChannel(endpoint.url)
    return GrpcAioChannel.over_tls(
        endpoint.url,
        root_certificates=_read(endpoint.tls_ca_file),
        private_key=_read(endpoint.tls_key_file),
        certificate_chain=_read(endpoint.tls_cert_file),
    )


def _read(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None
