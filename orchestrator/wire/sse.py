"""Answers over HTTP: a generation as one JSON body, or as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.core.errors import GatewayError
from orchestrator.core.events import Completion, GenerationEvent, GenerationFinished, fold
from orchestrator.wire.errors import Headers, error_members
from orchestrator.wire.http import Exchange, header_pairs, internal_error

logger = logging.getLogger(__name__)

PING_AFTER_S = 15.0
_UNBUFFERED: Headers = [
    (b"cache-control", b"no-cache"),
    # Without it nginx collects events before it passes them on.
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Framing:
    """What a stream is made of.

    `ping` may come between any two frames and means nothing; `end` comes after the last.
    """

    content_type: bytes
    ping: bytes
    end: bytes = b""


EVENT_STREAM = Framing(b"text/event-stream; charset=utf-8", b": ping\n\n")


class Answer(Protocol):
    """A generation on its way: its events, once, and then its end."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What the reply tells of it."""

    async def next(self) -> Sequence[GenerationEvent]:
        """The events that have come, at least one; none after the last. Raises: GatewayError."""

    async def aclose(self) -> None:
        """Stops what still runs. Twice is once."""


class Encoder(Protocol):
    """A dialect's way to write a generation down."""

    def event(self, event: GenerationEvent) -> Sequence[bytes]:
        """The frames of a stream that `event` brings about, each a whole event."""

    def result(self, completion: Completion) -> bytes:
        """The body of a reply that is not streamed."""

    def error(self, members: dict[str, Any]) -> Sequence[bytes]:
        """The frames that end a stream that failed; `members` are those of an error body."""


async def send_completion(exchange: Exchange, generation: Answer, encoder: Encoder) -> None:
    """Sends the whole answer at its end, and closes `generation` in any case."""
    try:
        completion = await fold(generation)
        exchange.usage = completion.usage
        body = encoder.result(completion)
        await exchange.reply(body, headers=header_pairs(generation.headers))
    finally:
        await generation.aclose()


async def send_stream(
    exchange: Exchange,
    generation: Answer,
    encoder: Encoder,
    *,
    framing: Framing = EVENT_STREAM,
    ping_after_s: float = PING_AFTER_S,
) -> None:
    """Sends events as they come, in one write what came together; closes `generation` in any case.

    The status went out with the first event, so an error after it is told as an event. The last
    events end the reply in the same write.
    """
    headers = [
        (b"content-type", framing.content_type),
        *_UNBUFFERED,
        *header_pairs(generation.headers),
    ]
    pings = _Pings(exchange, framing.ping, ping_after_s)
    last = b""
    try:
        await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
        pings.start()
        try:
            while events := await generation.next():
                piece = b"".join([frame for event in events for frame in encoder.event(event)])
                if isinstance(end := events[-1], GenerationFinished):
                    exchange.usage = end.usage
                    last = piece
                elif piece:
                    pings.touch()
                    await exchange.send_piece(piece)
        except GatewayError as error:
            await _send_error(exchange, encoder, error)
        except Exception:
            logger.exception("stream %s failed", exchange.call_id)
            await _send_error(exchange, encoder, internal_error())
        await pings.stop()
        await exchange.send(
            {"type": "http.response.body", "body": last + framing.end, "more_body": False}
        )
    finally:
        await pings.stop()
        await generation.aclose()


async def _send_error(exchange: Exchange, encoder: Encoder, error: GatewayError) -> None:
    exchange.error = error.code
    for frame in encoder.error(error_members(error, exchange.profile, exchange.request_id)):
        await exchange.send(_body(frame))


def _body(frame: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": frame, "more_body": True}


class _Pings:
    """Comments that keep a silent connection open. A timer and no task, while events come."""

    def __init__(self, exchange: Exchange, ping: bytes, after_s: float) -> None:
        self._exchange = exchange
        self._message = _body(ping)
        self._after_s = after_s
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._timer = self._loop.call_later(self._after_s, self._look)

    def touch(self) -> None:
        """Something else has just been sent."""
        self._sent_at = self._loop.time()

    async def stop(self) -> None:
        """No ping is sent after this returns."""
        if self._timer is not None:
            self._timer.cancel()
        if self._ping is not None:
            self._ping.cancel()
            await asyncio.gather(self._ping, return_exceptions=True)

    def _look(self) -> None:
        """Sends a ping when it is time, and looks again when it may be time next."""
        silent_s = self._loop.time() - self._sent_at
        if silent_s >= self._after_s and (self._ping is None or self._ping.done()):
            self._ping = self._loop.create_task(self._send())
            self._sent_at, silent_s = self._loop.time(), 0.0
        self._timer = self._loop.call_later(max(self._after_s - silent_s, 0.01), self._look)

    async def _send(self) -> None:
        await self._exchange.send(self._message)
