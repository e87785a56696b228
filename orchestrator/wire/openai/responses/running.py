"""Responses on their way: to a reader who waits, in the background, and to those who follow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from orchestrator.core.context import CallContext
from orchestrator.core.errors import GatewayError, Internal, ResponseNotFound
from orchestrator.core.events import GenerationEvent, GenerationFinished
from orchestrator.core.request import GenerationRequest
from orchestrator.core.shares import Lease
from orchestrator.http.exchange import Exchange
from orchestrator.http.faults import internal_error
from orchestrator.http.sse import EVENT_STREAM, Framing
from orchestrator.keys.principal import Principal
from orchestrator.pipeline.gateway import Gateway
from orchestrator.pipeline.generation import Generation
from orchestrator.responses.service import Responses
from orchestrator.responses.values import StoredResponse
from orchestrator.store.database import StoreError
from orchestrator.wire.openai.responses.encoder import ResponseEncoder, replayed

logger = logging.getLogger(__name__)

RESPONSE_EVENTS = Framing(EVENT_STREAM.content_type, EVENT_STREAM.ping, b"data: [DONE]\n\n")
"""The end is that of the Open Responses specification; OpenAI's own clients read it too."""
Unset = Callable[[StoredResponse], Awaitable[bool]]

_INTERRUPTED = "This response was stopped before its end."
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class StoredAnswer:
    """A generation whose response is stored before its reader knows of the end.

    Every event passes through `encoder` before the next is asked for: of a stream its reader does
    that, of a `whole` answer this does.
    """

    def __init__(
        self, generation: Generation, encoder: ResponseEncoder, keep: Unset | None, *, whole: bool
    ) -> None:
        """`keep` stores, and tells whether it could; without it nothing is stored."""
        self.headers: Mapping[str, str] = generation.headers
        self._generation = generation
        self._encoder = encoder
        self._keep = keep
        self._whole = whole
        self._end: list[GenerationEvent] = []

    async def next(self) -> Sequence[GenerationEvent]:
        """The next events of the generation; its end comes alone. Raises: GatewayError."""
        try:
            return await self._next()
        except GatewayError as error:
            await self._fail(error)
            raise
        except Exception as error:
            logger.exception("a response failed")
            await self._fail(internal_error())
            raise internal_error() from error

    async def aclose(self, error: BaseException | None = None) -> None:
        """Closes the generation; `error` keeps the rest of the answer from the client."""
        await self._generation.aclose(error)

    async def _next(self) -> Sequence[GenerationEvent]:
        events = self._end or await self._generation.next()
        if not events or not isinstance(last := events[-1], GenerationFinished):
            self._read(events)
            return events
        if len(events) > 1:
            # What comes before the end has to pass through the encoder before it is stored.
            self._end = [last]
            self._read(events[:-1])
            return events[:-1]
        self._end = []
        self._encoder.conclude(last.usage)
        await self._store()
        self._read(events)
        return events

    def _read(self, events: Sequence[GenerationEvent]) -> None:
        if self._whole:
            for event in events:
                self._encoder.event(event)

    async def _fail(self, error: GatewayError) -> None:
        self._encoder.fail(error)
        await self._store()

    async def _store(self) -> None:
        if self._keep is not None and not await self._keep(self._encoder.kept()):
            self._encoder.disown()


async def started(
    generating: Awaitable[Generation], encoder: ResponseEncoder, keep: Unset | None, *, whole: bool
) -> StoredAnswer:
    """The answer once its generation has begun. One that does not begin is not stored.

    Raises: GatewayError.
    """
    try:
        generation = await generating
    except Exception as error:
        encoder.disown()
        encoder.fail(error if isinstance(error, GatewayError) else internal_error())
        raise
    return StoredAnswer(generation, encoder, keep, whole=whole)


class BackgroundWork:
    """A response that runs without a reader."""

    def __init__(
        self,
        gateway: Gateway,
        principal: Principal,
        request: GenerationRequest,
        context: CallContext,
        encoder: ResponseEncoder,
        lease: Lease | None = None,
    ) -> None:
        """`lease` is what its request holds in memory; released by `close`."""
        self._lease = lease
        self._gateway = gateway
        self._principal = principal
        self._request = request
        self._context = replace(context, at_fault=self._is_interrupted)
        self._encoder = encoder
        self._fault: Internal | None = None

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Its events as they come, that of an error too."""
        try:
            generation = await self._gateway.generate(self._principal, self._request, self._context)
            fault: BaseException | None = None
            try:
                async for event in generation:
                    for frame in self._encoder.event(event):
                        yield frame
            except Exception as error:
                fault = error
                raise
            finally:
                await generation.aclose(fault or self._fault)
        except GatewayError as error:
            for frame in self._encoder.fail(error):
                yield frame
        except Exception:
            logger.exception("the background response %s failed", self.kept().id)
            for frame in self._encoder.fail(internal_error()):
                yield frame

    def interrupt(self) -> None:
        """The server stops: that it ends early is a fault of ours."""
        self._fault = Internal(_INTERRUPTED)

    def _is_interrupted(self) -> bool:
        return self._fault is not None

    def close(self) -> None:
        """Nothing more will be asked of it."""
        if self._lease is not None:
            self._lease.release()

    def interrupted(self) -> Sequence[bytes]:
        """The events that end it without its answer."""
        return self._encoder.fail(Internal(_INTERRUPTED))

    def kept(self) -> StoredResponse:
        """The response as it is now."""
        return self._encoder.kept()


async def follow(
    exchange: Exchange, responses: Responses, kept: StoredResponse, after: int
) -> None:
    """Streams the events of a stored response after number `after`, those to come too."""
    tenant_id, response_id = kept.tenant_id, kept.id
    live = await responses.has_events(tenant_id, response_id)
    await exchange.send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
    with exchange.while_connected():
        if live:
            ping_after_s = exchange.ping_after_s
            async for frame in _events(responses, tenant_id, response_id, after, ping_after_s):
                await exchange.send(_body(frame))
        else:
            for frame in replayed(kept.body)[after + 1 :]:
                await exchange.send(_body(frame))
        end = {"type": "http.response.body", "body": RESPONSE_EVENTS.end, "more_body": False}
        await exchange.send(end)


async def _events(
    responses: Responses, tenant_id: str, response_id: str, after: int, ping_after_s: float
) -> AsyncIterator[bytes]:
    """Events as they are stored, with pings in between."""
    silent_s = 0.0
    while True:
        try:
            page = await responses.page(tenant_id, response_id, after)
        except ResponseNotFound:
            # Deleted while it was followed: there is no event for that.
            return
        except StoreError as error:
            logger.warning("the events of %s cannot be read: %s", response_id, error)
            yield _fault(after + 1)
            return
        for number, frame in page.frames:
            after, silent_s = number, 0.0
            yield frame
        if page.over:
            return
        await asyncio.sleep(responses.poll_s)
        silent_s += responses.poll_s
        if silent_s >= ping_after_s:
            silent_s = 0.0
            yield b": ping\n\n"


def _fault(number: int) -> bytes:
    """The event of an error that is not the response's own: it can be followed again later."""
    event = {
        "type": "error",
        "sequence_number": number,
        "code": "store_unavailable",
        "message": "The events cannot be read at the moment.",
        "param": None,
    }
    return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"


def _body(frame: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": frame, "more_body": True}
