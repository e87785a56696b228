"""One generation as Triton sends it."""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic

from google.protobuf.message import DecodeError

from orchestrator.core.errors import GatewayError, UpstreamFailed, UpstreamTimeout
from orchestrator.core.event_source import noop
from orchestrator.triton import contract, encoding, errors
from orchestrator.triton.contract import EngineMetrics, GenerateCall, TokenChunk
from orchestrator.triton.messages import service_pb2
from orchestrator.triton.response_template import ResponseTemplate
from orchestrator.triton.transport import OK, Call, Metadata, Status, Transport

logger = logging.getLogger(__name__)

METHOD = "ModelStreamInfer"


class TokenStream:
    """The chunks of one generation, in order.

    It receives whether or not the caller iterates: a call must not be cut when its reader stops
    (see `TritonClient`). Chunks that wait together are returned as one, except chunks with
    log-probabilities.
    """

    def __init__(
        self,
        call: GenerateCall,
        *,
        streaming: bool = True,
        on_stop: Callable[[TokenStream], None],
        on_end: Callable[[TokenStream], None],
    ) -> None:
        """Without `streaming` the engine sends everything in one response at the end."""
        self.call = call
        self.streaming = streaming
        self.produced = 0
        """Number of tokens that the engine has sent, read by the caller or not."""
        self.metrics: EngineMetrics | None = None
        """What the engine reported at the end, if it reports anything."""
        self.asked_at_ns = 0
        """When the request was sent, in Unix nanoseconds."""
        self.began_at = 0.0
        """The same by `time.monotonic()`."""
        self.answered_at = 0.0
        """When the engine last sent anything, by `time.monotonic()`; 0 if it has not."""
        self._rpc: Call | None = None
        self._on_stop = on_stop
        self._on_end = on_end
        self._chunks: deque[TokenChunk] = deque()
        self._tokens: list[int] = []
        """Tokens that came after `_chunks`, from responses that hold one token and nothing else."""
        self._likeness = ResponseTemplate()
        self._error: GatewayError | None = None
        self.on_ready: Callable[[], None] = noop
        """Called when there may be something to `take`, and when the stream has finished."""
        self._stopped = False
        self.has_ended = False
        """Whether the call has ended in the engine."""
        self._enders: list[asyncio.Future[None]] = []

    def start(self, transport: Transport, *, metadata: Metadata, timeout_s: float) -> None:
        """Sends the request and starts reading."""
        self.asked_at_ns = time.time_ns()
        self.began_at = monotonic()
        self._rpc = transport.start(
            METHOD,
            encoding.generate_request(self.call, streaming=self.streaming),
            metadata=metadata,
            timeout_s=timeout_s,
            on_message=self._take,
            on_end=self._end,
        )

    def take(self) -> TokenChunk | None:
        """Returns what has come since the last call, if anything has. Raises: GatewayError.

        If more remains after it, a chunk or the end, `on_ready` is called once more.
        """
        chunks = self._chunks
        if not chunks:
            if not self._tokens:
                if self._error is not None:
                    raise self._error
                return None
            tokens, self._tokens = self._tokens, []
            chunk = TokenChunk(tokens, final=False)
        elif self.call.log_probs or not (self._tokens or len(chunks) > 1):
            chunk = chunks.popleft()
        else:
            chunk = self._all_that_wait()
        if chunks or self.has_ended or self._error is not None:
            self.on_ready()
        return chunk

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes after the chunks that wait."""
        return self.has_ended or self._stopped

    async def next_chunk(self, timeout_s: float | None = None) -> TokenChunk | None:
        """Returns the next chunk, or None after the last. Raises: GatewayError, UpstreamTimeout.

        Only for a caller that is the stream's single reader and has set no listener.
        """
        while (chunk := self.take()) is None and not self.is_over:
            await self._wait(timeout_s)
        return chunk

    def _all_that_wait(self) -> TokenChunk:
        """Merges the waiting chunks into one; values that come at the end are the last chunk's."""
        last = self._chunks[-1]
        token_ids = [token_id for chunk in self._chunks for token_id in chunk.token_ids]
        token_ids += self._tokens
        self._chunks.clear()
        self._tokens = []
        return TokenChunk(token_ids, last.final, last.finish_reason, None, last.metrics)

    def stop(self) -> None:
        """Stops the generation in the engine, in the background. Idempotent."""
        if self._stopped or self.has_ended:
            return
        self._stopped = True
        self._on_stop(self)
        self.on_ready()

    def give_up(self) -> None:
        """Drops the call, because the engine is considered dead. The reader gets a 503."""
        self._fail(errors.unavailable())
        self.cut()

    def cut(self) -> None:
        """Drops the call."""
        if self._rpc is not None and not self.has_ended:
            self._rpc.cancel()

    async def ended(self, timeout_s: float | None = None) -> None:
        """Returns when the call has ended in the engine, or after `timeout_s`."""
        if self._rpc is not None and not self.has_ended:
            ender = asyncio.get_running_loop().create_future()
            self._enders.append(ender)
            await asyncio.wait([ender], timeout=timeout_s)

    async def _wait(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        late = None if timeout_s is None else loop.call_later(timeout_s, _expire, waiter)
        self.on_ready = partial(_wake, waiter)
        try:
            await waiter
        finally:
            self.on_ready = noop
            if late is not None:
                late.cancel()

    def _end(self, status: Status) -> None:
        self.has_ended = True
        if status.code != OK and not self._stopped:
            failed = errors.from_status(
                status, model=self.call.model, request_id=self._id, guided=self._is_guided
            )
            self._fail(failed)
        self._on_end(self)
        self.on_ready()
        for ender in self._enders:
            if not ender.done():
                ender.set_result(None)
        self._enders.clear()

    @property
    def _id(self) -> str:
        return self.call.request_id

    @property
    def _is_guided(self) -> bool:
        return self.call.guide is not None

    def _take(self, answer: bytes) -> None:
        """Receives one answer. Every token passes through here, so it makes few calls."""
        self.answered_at = monotonic()
        token = self._likeness.token(answer)
        if token is not None:
            self.produced += 1
            if not self._stopped:
                self._tokens.append(token)
                self.on_ready()
            return
        try:
            self._read(answer)
        except (DecodeError, ValueError, IndexError, struct.error) as error:
            # A fault of this call alone; the others on its connection continue.
            logger.warning("an answer to %s cannot be read: %s", self._id, type(error).__name__)
            self._fail(UpstreamFailed("The engine's answer cannot be read."))
            self.stop()

    def _read(self, answer: bytes) -> None:
        response = service_pb2.ModelStreamInferResponse.FromString(answer)
        if response.error_message:
            if not self._stopped:
                self._fail(self._error_of(response.error_message))
            return
        chunk = contract.read_chunk(response.infer_response, self.produced)
        if len(chunk.token_ids) == 1 and not chunk.final and chunk.is_plain:
            self._likeness.learn(answer, chunk.token_ids[0])
        self._add(chunk)

    def _add(self, chunk: TokenChunk) -> None:
        self.produced += len(chunk.token_ids)
        if chunk.metrics is not None:
            self.metrics = chunk.metrics
        if not self._stopped:
            if self._tokens:
                self._chunks.append(TokenChunk(self._tokens, final=False))
                self._tokens = []
            self._chunks.append(chunk)
            self.on_ready()

    def _error_of(self, text: str) -> GatewayError:
        guide = self.call.guide
        if guide is not None and not self.produced:
            refused = errors.guide_refused(text, guide.param)
            if refused is not None:
                return refused
        return errors.from_text(
            text, model=self.call.model, request_id=self._id, guided=self._is_guided
        )

    def _fail(self, error: GatewayError) -> None:
        if self._error is None:
            self._error = error
            self.on_ready()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(UpstreamTimeout("The engine did not answer in time."))
