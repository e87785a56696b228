"""Several prompts of one request, generated at once and read as one generation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from orchestrator.auth import Principal
from orchestrator.core.context import CallContext
from orchestrator.core.event_source import EventSource
from orchestrator.core.events import (
    EngineTimings,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    Usage,
)
from orchestrator.core.request import GenerationRequest
from orchestrator.gateway import Gateway
from orchestrator.generation import Generation
from orchestrator.wire.sse import Answer


async def generate_batch(
    gateway: Gateway,
    principal: Principal,
    requests: Sequence[GenerationRequest],
    context: CallContext,
) -> Answer:
    """One generation whose choices are those of all `requests`, in the order of the prompts.

    Each request is admitted and reserved by itself. Either all of them begin or none goes on.
    Raises: GatewayError, from 403 to 504, before any event.
    """
    if len(requests) == 1:
        return await gateway.generate(principal, requests[0], context)
    tasks = [
        asyncio.create_task(gateway.generate(principal, request, context)) for request in requests
    ]
    try:
        generations = await asyncio.gather(*tasks)
    except BaseException:
        await _close_all(tasks)
        raise
    return _Batch(generations, requests[0].n)


async def _close_all(tasks: Sequence[asyncio.Task[Generation]]) -> None:
    """Ends what has begun, and what has not."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, BaseException):
            await outcome.aclose()


class _Batch(EventSource):
    """The events of all as one stream; the first error ends all of them."""

    def __init__(self, generations: Sequence[Generation], choices: int) -> None:
        self.headers: Mapping[str, str] = generations[-1].headers
        self._generations = generations
        self._choices = choices
        self._begun = False
        self._ends: dict[int, GenerationFinished] = {}

    def take(self) -> list[GenerationEvent]:
        """See `EventSource.take`."""
        events: list[GenerationEvent] = []
        starts: list[GenerationStarted] = []
        for number, generation in enumerate(self._generations):
            for event in () if generation.over else generation.take():
                if isinstance(event, GenerationStarted):
                    starts.append(event)
                elif isinstance(event, GenerationFinished):
                    self._ends[number] = event
                else:
                    events.append(replace(event, choice=number * self._choices + event.choice))
        if not self._begun:
            # Each of them has its first events already.
            self._begun = True
            events.insert(0, _begin(starts))
        if len(self._ends) == len(self._generations):
            self.over = True
            events.append(_end([self._ends[number] for number in sorted(self._ends)]))
        return events

    def listen(self, on_news: Callable[[], None]) -> None:
        """See `EventSource.listen`."""
        for generation in self._generations:
            generation.listen(on_news)

    async def aclose(self) -> None:
        """Closes every generation."""
        for generation in self._generations:
            await generation.aclose()


def _begin(started: Sequence[GenerationStarted]) -> GenerationStarted:
    return replace(started[0], prompt_tokens=sum(event.prompt_tokens for event in started))


def _end(ends: Sequence[GenerationFinished]) -> GenerationFinished:
    timings: tuple[EngineTimings, ...] = ()
    if all(end.timings for end in ends):
        timings = tuple(one for end in ends for one in end.timings)
    usages = [end.usage for end in ends]
    usage = Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
    )
    return GenerationFinished(usage, timings)
