"""Several prompts of one request, generated at once and read as one generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from orchestrator.auth import Principal
from orchestrator.backends.merge import merged
from orchestrator.core.context import CallContext
from orchestrator.core.events import (
    EngineTimings,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    Usage,
)
from orchestrator.core.request import GenerationRequest
from orchestrator.gateway import Gateway, Generation


async def generate_batch(
    gateway: Gateway,
    principal: Principal,
    requests: Sequence[GenerationRequest],
    context: CallContext,
) -> Generation:
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
    events = _batched(generations, requests[0].n)
    return Generation(await anext(events), events, generations[-1].headers, _nothing, _nothing)


def _nothing(_: object) -> None:
    """Each generation of a batch keeps its own books."""


async def _close_all(tasks: Sequence[asyncio.Task[Generation]]) -> None:
    """Ends what has begun, and what has not."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, BaseException):
            await outcome.aclose()


async def _batched(
    generations: Sequence[Generation], choices: int
) -> AsyncGenerator[GenerationEvent, None]:
    """The events of all as one stream; the first error ends all of them."""
    ends: dict[int, GenerationFinished] = {}
    try:
        sources = [aiter(generation) for generation in generations]
        # Each of them has its first event already.
        yield _begin([await anext(source) for source in sources])
        numbered = [_numbered(source, number, choices) for number, source in enumerate(sources)]
        async with aclosing(merged(numbered)) as events:
            async for number, event in events:
                if isinstance(event, GenerationFinished):
                    ends[number] = event
                else:
                    yield event
        yield _end([ends[number] for number in sorted(ends)])
    finally:
        for generation in generations:
            await generation.aclose()


async def _numbered(
    events: AsyncIterator[GenerationEvent], number: int, choices: int
) -> AsyncGenerator[tuple[int, GenerationEvent], None]:
    """The events of the prompt of that number, with the choices of the whole batch."""
    async for event in events:
        if isinstance(event, GenerationStarted | GenerationFinished):
            yield number, event
        else:
            yield number, replace(event, choice=number * choices + event.choice)


def _begin(firsts: Sequence[GenerationEvent]) -> GenerationStarted:
    started = [event for event in firsts if isinstance(event, GenerationStarted)]
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
