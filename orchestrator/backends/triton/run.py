"""One running generation on the engines in Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from orchestrator.backends.protocol import GenerationRun
from orchestrator.backends.triton.choice import Choice
from orchestrator.backends.triton.comeback import Comeback
from orchestrator.backends.triton.served import PreparedGeneration
from orchestrator.core.costs import Cost, Outcome, cost_of
from orchestrator.core.errors import GatewayError, ModelUnavailable
from orchestrator.core.event_source import noop
from orchestrator.core.events import (
    EngineTimings,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    Usage,
)
from orchestrator.core.ids import new_id


class TritonRun(GenerationRun):
    """One running generation: a Triton stream for each of its choices.

    If the model is being restarted, it waits. If the engine dies before the first token, it starts
    again when the model is back. It does so only once, because it may have killed the engine.
    """

    def __init__(
        self,
        prepared: PreparedGeneration,
        start: Callable[[], Sequence[Choice]],
        comeback: Comeback,
    ) -> None:
        """`start` sends the requests of all choices."""
        self._prepared = prepared
        self._start = start
        self._comeback = comeback
        self._choices: Sequence[Choice] = ()
        self._only: Choice | None = None
        self._on_ready: Callable[[], None] = noop
        self._waits: asyncio.Task[None] | None = None
        self._began_again = False
        self._begun = False
        self._stopped = False
        self._error: BaseException | None = None
        self._produced: Usage | None = None
        self._before: Sequence[Choice] = ()
        """The choices of the first start, which the engine's death ended; they gave no token."""
        self._fault: GatewayError | None = None
        if comeback.is_served:
            self._send()
        else:
            self._wait()

    def take(self) -> list[GenerationEvent]:
        """See `EventSource.take`; the first events come with the first token."""
        choices = self._choices
        if not choices:
            return self._nothing_yet()
        try:
            if (only := self._only) is not None:
                events, begun, over = only.take(), only.begun, only.over
            else:
                events = self._take_all()
                begun, over = any(one.begun for one in choices), all(one.over for one in choices)
        except ModelUnavailable as error:
            self._begin_again_after(error)
            return []
        if begun and not self._begun:
            self._begun = True
            events.insert(0, _started(self._prepared))
        if over:
            self.over = True
            usage = self._usage(sum([choice.tokens for choice in choices]))
            events.append(GenerationFinished(usage, self._timings()))
        return events

    def _take_all(self) -> list[GenerationEvent]:
        """The events of all choices. An error is raised after the events of other choices."""
        if self._fault is not None:
            raise self._fault
        events: list[GenerationEvent] = []
        for choice in self._choices:
            if choice.over:
                continue
            try:
                events += choice.take()
            except GatewayError as error:
                if not events:
                    raise
                self._fault = error
                self._on_ready()
                break
        return events

    def listen(self, on_ready: Callable[[], None]) -> None:
        """See `EventSource.listen`."""
        self._on_ready = on_ready
        for choice in self._choices:
            choice.listen(on_ready)

    def stop(self) -> None:
        """Stops the engine's work, if it has not finished."""
        self._stopped = True
        if self._waits is not None:
            self._waits.cancel()
        for choice in self._choices:
            choice.stop()

    @property
    def has_ended(self) -> bool:
        """Whether the engine has finished."""
        return all(choice.has_ended for choice in (*self._before, *self._choices))

    @property
    def answered(self) -> int:
        """Tokens of the answer whose text is in the events that were taken."""
        return sum([choice.answered for choice in self._choices])

    @property
    def dropped(self) -> int:
        """Tokens that the engine made after the end of a choice, or before it died."""
        in_vain = sum([choice.produced for choice in self._before])
        return in_vain + sum([choice.dropped for choice in self._choices])

    def so_far(self) -> Usage:
        """The tokens of the prompt, and those that the engine has made for the answer until now.

        All counts are 0 if no request was sent to the engine.
        """
        if self._produced is not None:
            return self._produced
        if not self._choices:
            return Usage(0, 0)
        usage = self._usage(sum([choice.made for choice in self._choices]))
        if self.has_ended:
            # Cached, because it is read several times after the end and does not change then.
            self._produced = usage
        return usage

    def cost(self, outcome: Outcome, *, sent: bool) -> Cost:
        """What it costs if it ends now; the client has seen the `answered` tokens if `sent`."""
        seen = self.answered if sent else 0
        return cost_of(self.so_far(), outcome, seen=seen, dropped=self.dropped)

    async def ended(self) -> None:
        """Waits until all streams of the engine have ended."""
        for choice in (*self._before, *self._choices):
            if not choice.has_ended:
                await choice.ended()

    def _send(self) -> None:
        self._comeback.begin()
        self._choices = self._start()
        self._only = self._choices[0] if len(self._choices) == 1 else None
        self.is_streamed = self._choices[0].is_streamed
        self.listen(self._on_ready)

    def _nothing_yet(self) -> list[GenerationEvent]:
        """Returns no events while it waits. Raises: GatewayError if the wait has failed."""
        if self._error is not None:
            raise self._error
        return []

    def _begin_again_after(self, error: ModelUnavailable) -> None:
        """Waits to start again, once, if no token has come yet. Raises: `error` otherwise."""
        seen = any(choice.begun for choice in self._choices)
        if seen or self._stopped or self._began_again or not self._comeback.is_open_after(error):
            raise error
        self._began_again = True
        self._wait(error)

    def _wait(self, error: ModelUnavailable | None = None) -> None:
        for choice in self._choices:
            choice.stop()
        self._before, self._choices, self._only = self._choices, (), None
        self._fault = None
        self._waits = asyncio.create_task(self._comeback.wait(error))
        self._waits.add_done_callback(self._resume)

    def _resume(self, waited: asyncio.Task[None]) -> None:
        self._waits = None
        if self._stopped or waited.cancelled():
            return
        self._error = waited.exception()
        if self._error is None:
            self._send()
        self._on_ready()

    def _usage(self, completion_tokens: int) -> Usage:
        """Cached tokens are those that no choice computed; the last prompt token always is."""
        prompt_tokens = len(self._prepared.token_ids)
        reused = reasoning = 0
        for index, choice in enumerate(self._choices):
            told = choice.metrics
            blocks = told.reused_blocks if told is not None else 0
            reused = min(reused, blocks) if index else blocks
            reasoning += choice.reasoning_tokens
        per_block = self._prepared.served.manifest.tokens_per_block
        cached = min(reused * per_block, prompt_tokens - 1)
        return Usage(prompt_tokens, completion_tokens, cached, reasoning)

    def _timings(self) -> tuple[EngineTimings, ...]:
        timings = [choice.timings for choice in self._choices]
        told = [one for one in timings if one is not None]
        return tuple(told) if len(told) == len(timings) else ()


def _started(prepared: PreparedGeneration) -> GenerationStarted:
    return GenerationStarted(
        id=new_id("chatcmpl").replace("_", "-"),
        model=prepared.request.model,
        created_at=int(time.time()),
        prompt_tokens=prepared.prompt_tokens,
    )
