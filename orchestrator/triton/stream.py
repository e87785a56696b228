"""One generation as it comes out of Triton."""

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

    It takes what comes in whether anybody iterates or not: a call that is cut when its reader goes
    is what must not happen (see `TritonClient`). Chunks that wait together are handed out as one,
    those with log-probabilities excepted.
    """

    def __init__(
        self,
        call: GenerateCall,
        *,
        streaming: bool = True,
        on_stop: Callable[[TokenStream], None],
        on_end: Callable[[TokenStream], None],
    ) -> None:
        """Without `streaming` the engine tells nothing until it tells all."""
        self.call = call
        self.streaming = streaming
        self.produced = 0
        """Tokens that the engine has sent, read by anybody or not."""
        self.metrics: EngineMetrics | None = None
        """What the engine told at the end, where it tells it."""
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
        """What came after the chunks, one token a response and nothing else in it."""
        self._likeness = ResponseTemplate()
        self._error: GatewayError | None = None
        self.on_ready: Callable[[], None] = noop
        """Called when there may be something to `take`, and when it is over."""
        self._stopped = False
        self.has_ended = False
        """Whether the engine's side is over."""
        self._enders: list[asyncio.Future[None]] = []

    def start(self, transport: Transport, *, metadata: Metadata, timeout_s: float) -> None:
        """Sends the request and begins to read."""
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
        """What has come since the last call, if anything has. Raises: GatewayError.

        Where something is left after it, a chunk or its end, `on_ready` is called once more.
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
        """Whether nothing comes after what waits."""
        return self.has_ended or self._stopped

    async def next_chunk(self, timeout_s: float | None = None) -> TokenChunk | None:
        """The next chunk, or None after the last. Raises: GatewayError, UpstreamTimeout.

        For whoever reads this stream alone, and nothing else listens to it.
        """
        while (chunk := self.take()) is None and not self.is_over:
            await self._wait(timeout_s)
        return chunk

    def _all_that_wait(self) -> TokenChunk:
        """One chunk instead of several; what is told at the end is told by the last."""
        last = self._chunks[-1]
        token_ids = [token_id for chunk in self._chunks for token_id in chunk.token_ids]
        token_ids += self._tokens
        self._chunks.clear()
        self._tokens = []
        return TokenChunk(token_ids, last.final, last.finish_reason, None, last.metrics)

    def stop(self) -> None:
        """Ends the generation on the engine's side, in the background. Twice is once."""
        if self._stopped or self.has_ended:
            return
        self._stopped = True
        self._on_stop(self)
        self.on_ready()

    def give_up(self) -> None:
        """The engine is taken for dead: the reader gets a 503, the call is dropped."""
        self._fail(errors.unavailable())
        self.cut()

    def cut(self) -> None:
        """Drops the call."""
        if self._rpc is not None and not self.has_ended:
            self._rpc.cancel()

    async def ended(self, timeout_s: float | None = None) -> None:
        """Returns when the engine's side is over, or after `timeout_s`."""
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
        """Every token comes through here: as few calls as can be."""
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
            # A fault of this call alone; the others on its connection go on.
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
