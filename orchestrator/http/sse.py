"""Sends a generation over HTTP: as one JSON body, or as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.core.errors import GatewayError
from orchestrator.core.events import Completion, GenerationEvent, GenerationFinished, fold
from orchestrator.http.errors import Headers, error_members
from orchestrator.http.exchange import Exchange
from orchestrator.http.faults import internal_error, store_unavailable
from orchestrator.http.field_names import in_words_of
from orchestrator.http.header_pairs import header_pairs
from orchestrator.store.database import StoreError

logger = logging.getLogger(__name__)

_UNBUFFERED: Headers = [
    (b"cache-control", b"no-cache"),
    # Without it nginx buffers events.
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Framing:
    """The format of a stream.

    `ping` may come between any two frames and has no meaning; `end` comes after the last frame.
    """

    content_type: bytes
    ping: bytes
    end: bytes = b""


EVENT_STREAM = Framing(b"text/event-stream; charset=utf-8", b": ping\n\n")


class Answer(Protocol):
    """A running generation. Its events can be read once."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that the reply gets."""

    async def next(self) -> Sequence[GenerationEvent]:
        """Waits for the next events; an empty list after the last. Raises: GatewayError."""

    async def aclose(self, error: BaseException | None = None) -> None:
        """Stops what still runs. Idempotent.

        `error` is why the client does not get the rest of the answer, if it has not disconnected.
        """


class Encoder(Protocol):
    """Encodes a generation in one dialect."""

    def event(self, event: GenerationEvent) -> Sequence[bytes]:
        """The frames that `event` adds to a stream; each is a whole server-sent event."""

    def result(self, completion: Completion) -> bytes:
        """The body of a reply that is not streamed."""

    def error(self, members: dict[str, Any]) -> Sequence[bytes]:
        """The frames that end a failed stream; `members` are those of an error body."""


async def send_completion(
    exchange: Exchange, starting: Awaitable[Answer], encoder: Encoder
) -> None:
    """Sends the whole answer when it is finished, and closes the generation in any case.

    Raises: GatewayError, if the generation does not start, or fails.
    """
    generation = await starting
    try:
        completion = await fold(generation)
        exchange.usage = completion.usage
        body = encoder.result(completion)
        await exchange.reply(body, headers=header_pairs(generation.headers))
    except BaseException as error:
        await generation.aclose(None if exchange.left else error)
        raise
    await generation.aclose()


async def send_stream(
    exchange: Exchange,
    starting: Awaitable[Answer],
    encoder: Encoder,
    *,
    framing: Framing = EVENT_STREAM,
) -> None:
    """Sends events as they come, and closes the generation. One write holds all that come together.

    The status is sent with the first event, or after `server.ping_after_s` of silence if that is
    sooner; an error after it is sent as an event. The last events and the end of the reply are one
    write. Raises: GatewayError, if the generation does not start and nothing has been sent.
    """
    reply = _Reply(exchange, framing)
    try:
        try:
            generation = await starting
        except Exception as error:
            if not await reply.has_opened():
                raise
            fault = _fault_before_events(exchange, error)
            await _send_error(exchange, encoder, fault)
            await reply.end()
            return
        cause: BaseException | None = None
        try:
            cause = await _send_events(exchange, reply, generation, encoder)
        except BaseException as error:
            cause = None if exchange.left else error
            raise
        finally:
            await generation.aclose(cause)
    finally:
        await reply.stop()


async def _send_events(
    exchange: Exchange, reply: _Reply, generation: Answer, encoder: Encoder
) -> Exception | None:
    """Sends all events. Returns the error that ended them, if one did."""
    last = b""
    fault: Exception | None = None
    await reply.open(generation.headers)
    try:
        while events := await generation.next():
            piece = b"".join([frame for event in events for frame in encoder.event(event)])
            if isinstance(end := events[-1], GenerationFinished):
                exchange.usage = end.usage
                last = piece
            elif piece:
                reply.touch()
                await exchange.send_piece(piece)
    except GatewayError as error:
        fault = error
        await _send_error(exchange, encoder, error)
    except Exception as error:
        fault = error
        logger.exception("stream %s failed", exchange.call_id)
        await _send_error(exchange, encoder, internal_error())
    await reply.end(last)
    return fault


def _fault_before_events(exchange: Exchange, error: Exception) -> GatewayError:
    """The error of a generation that failed before its first event, after the stream was opened."""
    match error:
        case GatewayError():
            fault = error
        case StoreError():
            logger.warning("request %s: %s", exchange.request_id, error)
            fault = store_unavailable()
        case _:
            logger.error("stream %s failed", exchange.call_id, exc_info=error)
            fault = internal_error()
    exchange.report(fault)
    return fault


async def _send_error(exchange: Exchange, encoder: Encoder, error: GatewayError) -> None:
    exchange.error = error.code
    told = in_words_of(exchange.dialect, error)
    for frame in encoder.error(error_members(told, exchange.profile, exchange.request_id)):
        await exchange.send(_body(frame))


def _body(frame: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": frame, "more_body": True}


class _Reply:
    """Sends the status of a stream, pings while it is silent, and its end.

    While events come, it needs only a timer and no task.
    """

    def __init__(self, exchange: Exchange, framing: Framing) -> None:
        self._exchange = exchange
        self._framing = framing
        self._after_s = exchange.ping_after_s
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._is_open = False
        self._ping: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(self._after_s, self._look)

    async def has_opened(self) -> bool:
        """Whether a ping has sent the status. Stops the pings."""
        await self.stop(cut=False)
        return self._is_open

    async def open(self, headers: Mapping[str, str]) -> None:
        """Sends the status with the `headers` of the generation, unless a ping has sent it."""
        if self._ping is not None:
            await asyncio.gather(self._ping, return_exceptions=True)
        if not self._is_open:
            self.touch()
            await self._start(headers)

    def touch(self) -> None:
        """Restarts the time of silence, because something was just sent."""
        self._sent_at = self._loop.time()

    async def end(self, last: bytes = b"") -> None:
        """Sends `last` and the end of the reply."""
        await self.stop()
        body = last + self._framing.end
        await self._exchange.send({"type": "http.response.body", "body": body, "more_body": False})

    async def stop(self, *, cut: bool = True) -> None:
        """Stops the pings. With `cut` it cancels one that is being sent, otherwise it waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ping is not None:
            if cut:
                self._ping.cancel()
            await asyncio.gather(self._ping, return_exceptions=True)

    def _start(self, headers: Mapping[str, str]) -> Awaitable[None]:
        self._is_open = True
        pairs = [
            (b"content-type", self._framing.content_type),
            *_UNBUFFERED,
            *header_pairs(headers),
        ]
        return self._exchange.send({"type": "http.response.start", "status": 200, "headers": pairs})

    def _look(self) -> None:
        """Sends a ping if one is due, and sets the timer for the next check."""
        silent_s = self._loop.time() - self._sent_at
        if silent_s >= self._after_s and (self._ping is None or self._ping.done()):
            self._ping = self._loop.create_task(self._send_ping())
            self._sent_at, silent_s = self._loop.time(), 0.0
        self._timer = self._loop.call_later(max(self._after_s - silent_s, 0.01), self._look)

    async def _send_ping(self) -> None:
        if not self._is_open:
            await self._start({})
        await self._exchange.send(_body(self._framing.ping))
