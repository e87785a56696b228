"""The socket of a session: what comes in, what goes out, and when it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from orchestrator.core.errors import GatewayError, ModelUnavailable
from orchestrator.core.events import Usage
from orchestrator.core.ids import new_id
from orchestrator.core.request import GenerationRequest
from orchestrator.http.bodies import shown
from orchestrator.http.exchange import DRAIN, Exchange, Message
from orchestrator.http.intake import ClientLeftError
from orchestrator.keys.authenticator import Authenticator
from orchestrator.pipeline.gateway import Gateway
from orchestrator.pipeline.generation import Generation
from orchestrator.responses.values import as_text
from orchestrator.settings import RealtimeSettings
from orchestrator.wire.openai.realtime.client_events import (
    ResponseCancel,
    ResponseCreate,
    read_envelope,
)
from orchestrator.wire.openai.realtime.conversation import Bounds
from orchestrator.wire.openai.realtime.faults import error_object, invalid
from orchestrator.wire.openai.realtime.items import Dialect
from orchestrator.wire.openai.realtime.response import ServerEvent
from orchestrator.wire.openai.realtime.running import Line, Running
from orchestrator.wire.openai.realtime.session import Session

logger = logging.getLogger(__name__)

GOING_AWAY = 1001
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
MAX_RESPONSES = 4
"""Of one session at the same time: one to the conversation, the others beside it."""
_DRAIN_MARGIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What every session works with. `drain_s` is the server's."""

    authenticator: Authenticator
    gateway: Gateway
    settings: RealtimeSettings
    drain_s: float


class Socket:
    """One session from the upgrade to the close."""

    def __init__(
        self, exchange: Exchange, parts: Parts, model: str, dialect: Dialect | None
    ) -> None:
        settings = parts.settings
        self._exchange = exchange
        self._parts = parts
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + settings.session_s
        self._active_at = self._loop.time()
        self._running: list[Running] = []
        self._responses = 0
        self._session = Session(
            model,
            dialect,
            bounds=Bounds(settings.most_items, settings.most_conversation_bytes),
            expires_at=int(time.time() + settings.session_s),
        )

    async def run(self, subprotocol: str | None) -> None:
        """Accepts the upgrade and serves until either side ends it."""
        try:
            await self._put({"type": "websocket.accept", "subprotocol": subprotocol})
            await self._send_all(self._session.opening())
            await self._listen()
        except ClientLeftError:
            return
        except Exception:
            logger.exception("session %s failed", self._session.id)
            await self._close(INTERNAL_ERROR, "internal error")
        finally:
            await self._end_responses()

    async def _listen(self) -> None:
        while True:
            message = await self._next_message()
            match None if message is None else message["type"]:
                case "websocket.receive":
                    assert message is not None
                    self._active_at = self._loop.time()
                    raw = message.get("bytes") or (message.get("text") or "").encode()
                    await self._take(raw)
                case "websocket.disconnect" | None:
                    return
                case kind if kind == DRAIN:
                    await self._drain()
                    return

    async def _next_message(self) -> Message | None:
        """What the client sent; `None` when the session has been ended for its age or silence."""
        # Kept until it is done: a receive that is cut off could lose what it had received.
        receiving = asyncio.ensure_future(self._exchange.receive())
        try:
            while True:
                now = self._loop.time()
                wait_s = min(self._ends_at - now, self._idle_ends_at() - now)
                done, _ = await asyncio.wait({receiving}, timeout=max(0.0, wait_s))
                if done:
                    return receiving.result()
                if await self._is_over():
                    return None
        finally:
            receiving.cancel()

    def _idle_ends_at(self) -> float:
        if any(running.active for running in self._running):
            self._active_at = self._loop.time()
        return self._active_at + self._parts.settings.idle_s

    async def _is_over(self) -> bool:
        now, settings = self._loop.time(), self._parts.settings
        if now >= self._ends_at:
            what = f"A session lasts {settings.session_s:g} s at most"
            code = "session_expired"
        elif now >= self._idle_ends_at():
            what = f"The session was idle for {settings.idle_s:g} s"
            code = "session_idle_timeout"
        else:
            return False
        await self._end_responses()
        await self._send_error(invalid(f"{what}; connect again.", code=code))
        await self._close(GOING_AWAY, code)
        return True

    async def _take(self, raw: bytes) -> None:
        event_id: str | None = None
        try:
            # Room for what it brings; afterwards for what is kept of it.
            self._exchange.keep(self._session.size + len(raw))
            envelope = await self._exchange.work(raw, read_envelope)
            event_id = envelope.event_id
            match await self._exchange.work(raw, lambda _: envelope.open()):
                case ResponseCreate() as body:
                    self._respond(body, event_id)
                case ResponseCancel() as body:
                    self._cancel(body)
                case body:
                    await self._send_all(self._session.take(body))
        except GatewayError as error:
            await self._send_error(error, event_id)
        # What answers have added is held too, as far as there is room for it.
        with suppress(GatewayError):
            self._exchange.keep(self._session.size)

    def _respond(self, body: ResponseCreate, event_id: str | None) -> None:
        """Starts a response. Raises: InvalidRequest."""
        self._running = [running for running in self._running if not running.task.done()]
        active = [running for running in self._running if running.active]
        plan = self._session.plan(body)
        default = next((running for running in active if running.response.is_default), None)
        if plan.response.is_default and default is not None:
            raise invalid(
                f"The conversation already has an active response, {shown(default.response.id)}; "
                "wait until it is done, or cancel it.",
                code="conversation_already_has_active_response",
            )
        if len(self._running) >= MAX_RESPONSES:
            raise invalid(
                f"A session may have {MAX_RESPONSES} responses at the same time, and has them.",
                code="too_many_active_responses",
            )

        async def refuse(error: GatewayError) -> None:
            await self._send_error(error, event_id)

        line = Line(self._generate, self._send, refuse, self._exchange.report, self._count)
        self._running.append(Running(plan, line))

    def _cancel(self, body: ResponseCancel) -> None:
        """Raises: InvalidRequest."""
        for running in self._running:
            response = running.response
            named = response.is_default if body.response_id is None else None
            if running.active and (named or response.id == body.response_id):
                running.stop()
                return
        raise invalid(
            "There is no active response to cancel.", "response_id", "response_cancel_not_active"
        )

    async def _generate(self, request: GenerationRequest, running: Running) -> Generation:
        """A generation of its own, by a key that is good now. Raises: GatewayError."""
        parts, exchange = self._parts, self._exchange
        exchange.principal = await parts.authenticator.authenticate(exchange.secret)
        self._responses += 1
        context = exchange.context("realtime")
        context = replace(
            context,
            request_id=f"{context.request_id}-{self._responses}",
            call_id=f"{context.call_id}-{self._responses}",
            at_fault=running.at_fault,
        )
        return await parts.gateway.generate(exchange.principal, request, context, running.shorter)

    def _count(self, usage: Usage) -> None:
        """Adds up what the line of the log will tell."""
        so_far = self._exchange.usage or Usage(0, 0)
        self._exchange.usage = Usage(
            so_far.prompt_tokens + usage.prompt_tokens,
            so_far.completion_tokens + usage.completion_tokens,
            so_far.cached_tokens + usage.cached_tokens,
            so_far.reasoning_tokens + usage.reasoning_tokens,
        )

    async def _drain(self) -> None:
        """Lets responses end while there is time, then ends them, and the session."""
        tasks = [running.task for running in self._running]
        drain_s = self._parts.drain_s
        if tasks:
            await asyncio.wait(tasks, timeout=max(drain_s - _DRAIN_MARGIN_S, drain_s / 2))
        for running in self._running:
            running.stop(ModelUnavailable("The server is being restarted; connect again."))
        if tasks:
            await asyncio.wait(tasks, timeout=_DRAIN_MARGIN_S / 2)
        await self._close(SERVICE_RESTART, "service restart")

    async def _end_responses(self) -> None:
        """Stops every engine, and returns when nothing is left to do."""
        tasks = [running.task for running in self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_all(self, events: Iterable[ServerEvent]) -> None:
        for event in events:
            await self._send(event)

    async def _send_error(self, error: GatewayError, event_id: str | None = None) -> None:
        await self._send({"type": "error", "error": error_object(error, event_id)})

    async def _send(self, event: ServerEvent) -> None:
        """Raises: ClientLeftError. Waits while the client does not read."""
        text = as_text({"event_id": new_id("event"), **event})
        await self._put({"type": "websocket.send", "text": text})

    async def _close(self, code: int, reason: str) -> None:
        await self._put({"type": "websocket.close", "code": code, "reason": reason})

    async def _put(self, message: Message) -> None:
        try:
            await self._exchange.send(message)
        except OSError as error:
            raise ClientLeftError from error
