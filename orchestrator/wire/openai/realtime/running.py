"""A response while it is being made: a task that can be stopped between two events."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from orchestrator.core.errors import GatewayError, RateLimited
from orchestrator.core.events import GenerationFinished, Usage
from orchestrator.core.request import GenerationRequest
from orchestrator.http.faults import internal_error
from orchestrator.http.intake import ClientLeftError
from orchestrator.pipeline.generation import Generation
from orchestrator.wire.openai.realtime.response import Response, ServerEvent, rate_limits
from orchestrator.wire.openai.realtime.session import Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Line:
    """What a response needs of its session.

    `generate` checks the key anew. `refuse` tells of an error that left no response behind,
    `report` whoever keeps books of denials.
    """

    generate: Callable[[GenerationRequest, Running], Awaitable[Generation]]
    send: Callable[[ServerEvent], Awaitable[None]]
    refuse: Callable[[GatewayError], Awaitable[None]]
    report: Callable[[GatewayError], None]
    count: Callable[[Usage], None]


class Running:
    """Makes one response. It is `active` until its `response.done` is about to be sent."""

    def __init__(self, plan: Plan, line: Line) -> None:
        self.active = True
        self._plan = plan
        self._line = line
        self._can_be_cut = False
        self._is_stopped = False
        self._fault: GatewayError | None = None
        self._generation: Generation | None = None
        self.task = asyncio.create_task(self._run())

    @property
    def response(self) -> Response:
        """The response that is made."""
        return self._plan.response

    def stop(self, fault: GatewayError | None = None) -> None:
        """Ends it early, as cancelled by its client, or as failed with `fault`. Returns at once."""
        if not self.active or self._is_stopped:
            return
        self._is_stopped, self._fault = True, fault
        # While something is sent it is let through: a reader that is told half of it is lost.
        if self._can_be_cut:
            self.task.cancel()

    async def _run(self) -> None:
        try:
            await self._make_or_tell()
        except ClientLeftError:
            # Its session ends in a moment.
            return
        finally:
            self.active = False

    async def _make_or_tell(self) -> None:
        try:
            await self._make()
        except asyncio.CancelledError:
            if not self._is_stopped or not self.active:
                raise
            self.task.uncancel()
            await self._end(error=self._fault)
        except GatewayError as error:
            await self._failed(error)
        except ClientLeftError:
            raise
        except Exception:
            logger.exception("response %s failed", self.response.id)
            await self._failed(internal_error())

    async def _make(self) -> None:
        if self._is_stopped:
            await self._end(error=self._fault)
            return
        generation = await self._begin()
        self._generation = generation
        fault: BaseException | None = None
        try:
            events = aiter(generation)
            while not self._is_stopped:
                self._can_be_cut = True
                event = await anext(events)
                self._can_be_cut = False
                if isinstance(event, GenerationFinished):
                    # Before the client knows, so that its next response finds the room of this one.
                    await generation.aclose()
                    await self._end(usage=event.usage)
                    return
                for made in self.response.event(event):
                    await self._line.send(made)
        except ClientLeftError:
            raise
        except Exception as error:
            fault = error
            raise
        finally:
            self._can_be_cut = False
            await generation.aclose(fault or self._fault)
        await self._end(error=self._fault)

    async def _begin(self) -> Generation:
        """The generation, without the oldest items where all of them are too many."""
        self._can_be_cut = True
        try:
            return await self._line.generate(self._plan.request(), self)
        finally:
            self._can_be_cut = False

    def at_fault(self) -> bool:
        """Whether it is our doing if it ends early: the client did not ask for that, nor leave."""
        return self._fault is not None

    def shorter(self) -> GenerationRequest | None:
        """The request without its oldest items, where that is possible."""
        shorter = self._plan.shorter()
        if shorter is None:
            return None
        self._plan = shorter
        return shorter.request()

    async def _failed(self, error: GatewayError) -> None:
        self._line.report(error)
        # What was wrong with the event is no response; clients wait for the end of all others.
        is_refusal = error.status < 500 and not isinstance(error, RateLimited)
        if is_refusal and not self.response.created:
            self.active = False
            await self._line.refuse(error)
        else:
            await self._end(error=error)

    async def _end(self, *, usage: Usage | None = None, error: GatewayError | None = None) -> None:
        """Sends the last events. Without `usage` it did not come to its own end."""
        cancelled = usage is None and error is None
        generation = self._generation
        if usage is None and generation is not None:
            usage = generation.usage
        if usage is not None:
            self._line.count(usage)
        for made in self.response.finish(usage=usage, cancelled=cancelled, error=error):
            if made["type"] == "response.done":
                self.active = False
            await self._line.send(made)
        headers: Mapping[str, str] = {} if error is None else error.headers
        if generation is not None:
            headers = generation.headers
        await self._line.send(rate_limits(headers, time.time()))
