"""Several prompts of one request, generated at once and read as one generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.core.context import CallContext
from orchestrator.core.event_source import EventSource, noop
from orchestrator.core.events import (
    EngineTimings,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    Usage,
)
from orchestrator.core.request import GenerationRequest
from orchestrator.http.sse import Answer
from orchestrator.keys.principal import Principal
from orchestrator.pipeline.gateway import Gateway
from orchestrator.pipeline.generation import Generation


async def generate_batch(
    gateway: Gateway,
    principal: Principal,
    requests: Sequence[GenerationRequest],
    context: CallContext,
) -> Answer:
    """One generation whose choices are those of all `requests`, in the order of the prompts.

    Raises: GatewayError, from 403 to 504, before any event.
    """
    generations = await gateway.generate_all(principal, requests, context)
    return generations[0] if len(generations) == 1 else _Batch(generations, requests[0].n)


class _Batch(EventSource):
    """The events of all as one stream; the first error ends all of them."""

    def __init__(self, generations: Sequence[Generation], choices: int) -> None:
        self.headers: Mapping[str, str] = generations[-1].headers
        self._generations = generations
        self._choices = choices
        self._begun = False
        self._ends: dict[int, GenerationFinished] = {}
        self._fault: Exception | None = None
        self._on_ready: Callable[[], None] = noop

    def take(self) -> list[GenerationEvent]:
        """See `EventSource.take`."""
        if self._fault is not None:
            raise self._fault
        events: list[GenerationEvent] = []
        starts: list[GenerationStarted] = []
        for number, taken in self._taken():
            for event in taken:
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

    def _taken(self) -> Iterator[tuple[int, list[GenerationEvent]]]:
        """What each generation has. The error of one comes behind what others have brought."""
        has_some = False
        for number, generation in enumerate(self._generations):
            if generation.over:
                continue
            try:
                taken = generation.take()
            except Exception as error:
                self._fault = error
                if not has_some:
                    raise
                self._on_ready()
                return
            has_some = has_some or bool(taken)
            yield number, taken

    def listen(self, on_ready: Callable[[], None]) -> None:
        """See `EventSource.listen`."""
        self._on_ready = on_ready
        for generation in self._generations:
            generation.listen(on_ready)

    async def aclose(self, error: BaseException | None = None) -> None:
        """Closes every generation: the fault of one keeps the answers of all from the client."""
        for generation in self._generations:
            await generation.aclose(error or self._fault)


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
