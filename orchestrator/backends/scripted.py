"""A backend without an engine, for tests: a script gives its answers, faults and costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from orchestrator.backends.protocol import (
    NO_LIMITS,
    EmbeddingRun,
    GenerationRun,
    Permit,
    Request,
    Run,
)
from orchestrator.contract.catalogue import Model
from orchestrator.core.costs import Cost, Outcome, cost_of, cost_of_vectors
from orchestrator.core.event_source import noop
from orchestrator.core.events import GenerationEvent, PartDelta, Usage
from orchestrator.core.request import EmbeddingRequest, GenerationRequest

R = TypeVar("R", bound=Run)

PROMPT_TOKENS = 3
MAX_TOKENS = 5
"""Tokens of the prompt of a scripted generation, and max tokens of each choice."""


class ScriptedGeneration(GenerationRun):
    """Returns `events` one by one; then ends, raises `error`, or waits for ever if it `hangs`."""

    def __init__(
        self,
        events: Sequence[GenerationEvent],
        *,
        error: BaseException | None = None,
        hangs: bool = False,
        produced: Usage | None = None,
        so_far: Usage | None = None,
        answered: int | None = None,
        dropped: int = 0,
        on_end: Callable[[], None] = noop,
        on_stop: Callable[[], None] = noop,
    ) -> None:
        """`so_far` is the usage before `ended` returns, `produced` the usage afterwards.

        `answered` defaults to the number of deltas that were taken. `on_end` is called when all
        events were returned, `on_stop` at the first `stop`.
        """
        self._events = iter(events)
        self._error = error
        self._hangs = hangs
        self._produced = produced or Usage(PROMPT_TOKENS, 2)
        self._so_far = so_far or self._produced
        self._answered = answered
        self._deltas = 0
        self._dropped = dropped
        self._on_end = on_end
        self._on_stop = on_stop
        self._stopped = False
        self._on_ready: Callable[[], None] = noop

    def take(self) -> list[GenerationEvent]:
        """See `EventSource.take`."""
        assert not self.over
        event = next(self._events, None)
        if event is not None:
            self._deltas += isinstance(event, PartDelta)
            self._on_ready()
            return [event]
        self._on_end()
        if self._error is not None:
            raise self._error
        self.over = not self._hangs
        return []

    def listen(self, on_ready: Callable[[], None]) -> None:
        """See `EventSource.listen`."""
        self._on_ready = on_ready

    def stop(self) -> None:
        """Calls `on_stop` once."""
        if not self._stopped:
            self._stopped = True
            self._on_stop()

    @property
    def has_ended(self) -> bool:
        """Always true: no work continues after a stop."""
        return True

    async def ended(self) -> None:
        """Returns at once; from then on the usage is `produced`."""
        self._so_far = self._produced

    def cost(self, outcome: Outcome, *, sent: bool) -> Cost:
        """What it costs if it ends now."""
        answered = self._deltas if self._answered is None else self._answered
        return cost_of(self._so_far, outcome, seen=answered if sent else 0, dropped=self._dropped)


class ScriptedEmbedding(EmbeddingRun):
    """Returns `vectors`, or raises `error`."""

    def __init__(
        self,
        vectors: Sequence[memoryview],
        prompt_tokens: int,
        *,
        error: BaseException | None = None,
        answered: int = 0,
    ) -> None:
        """`answered` counts the tokens of inputs whose vectors arrived before an error."""
        self._vectors = vectors
        self._prompt_tokens = prompt_tokens
        self._error = error
        self._answered = answered

    async def vectors(self) -> Sequence[memoryview]:
        """One vector for each input. Raises: `error`."""
        if self._error is not None:
            raise self._error
        return self._vectors

    def stop(self) -> None:
        """Does nothing: no work is running."""

    @property
    def has_ended(self) -> bool:
        """Always true."""
        return True

    async def ended(self) -> None:
        """Returns at once."""

    def cost(self, outcome: Outcome, *, sent: bool) -> Cost:
        """What it costs if it ends now."""
        del sent
        return cost_of_vectors(self._prompt_tokens, outcome, answered=self._answered)


@dataclass(frozen=True, slots=True)
class ScriptedRequest(Generic[R]):
    """A prepared request with given token counts."""

    request: Request
    prompt_tokens: int
    most_tokens: int
    starting: Callable[[str], R]

    def start(self, request_id: str) -> R:
        """Starts the run of the script."""
        return self.starting(request_id)


@dataclass
class ScriptedBackend:
    """Returns `events`; then ends, raises `error`, or waits for ever if it `hangs`.

    `check_model` raises for models that cannot serve. A request takes `slow_s` to prepare, and is
    refused with `refusal` if that is set. `asked`, `owners`, `sharing` and `ids` record the
    arguments it got; `running` is set when all events were returned, `closed` at the first stop.
    """

    events: Sequence[GenerationEvent] = ()
    error: BaseException | None = None
    refusal: BaseException | None = None
    hangs: bool = False
    slow_s: float = 0.0
    produced: Usage | None = None
    so_far: Usage | None = None
    answered: int | None = None
    dropped: int = 0
    vectors: Sequence[bytes] = (b"\0\0\x80\x3f\0\0\0\xc0",)
    embedded: int = 0
    name: str = "local"
    check_model: Callable[[Model], object] = lambda _: None
    asked: list[Request] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    sharing: list[tuple[str, ...]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    running: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    stops: int = 0

    def check(self, model: Model) -> None:
        """Raises: what `check_model` raises."""
        self.check_model(model)

    async def prepare(
        self,
        model: Model,  # noqa: ARG002  # any
        request: GenerationRequest,
        owner: str = "",
        sharing: tuple[str, ...] = (),
        permit: Permit = NO_LIMITS,
    ) -> ScriptedRequest[GenerationRun]:
        """Prepares a generation with `PROMPT_TOKENS` and at most `MAX_TOKENS` for each choice."""
        self.sharing.append(sharing)
        await self._prepare(request, owner, permit)
        most = PROMPT_TOKENS + request.n * MAX_TOKENS
        return ScriptedRequest(request, PROMPT_TOKENS, most, self.generate)

    async def prepare_embedding(
        self,
        model: Model,  # noqa: ARG002  # any
        request: EmbeddingRequest,
        owner: str = "",
        permit: Permit = NO_LIMITS,
    ) -> ScriptedRequest[EmbeddingRun]:
        """Prepares an embedding with `PROMPT_TOKENS` for each input."""
        await self._prepare(request, owner, permit)
        tokens = PROMPT_TOKENS * len(request.inputs)

        def start(request_id: str) -> EmbeddingRun:
            return self.embed(len(request.inputs), tokens, request_id)

        return ScriptedRequest(request, tokens, tokens, start)

    def generate(self, request_id: str) -> ScriptedGeneration:
        """Starts the generation of the script."""
        self.ids.append(request_id)
        return ScriptedGeneration(
            self.events,
            error=self.error,
            hangs=self.hangs,
            produced=self.produced,
            so_far=self.so_far,
            answered=self.answered,
            dropped=self.dropped,
            on_end=self.running.set,
            on_stop=self._stop,
        )

    def embed(self, inputs: int, tokens: int, request_id: str) -> ScriptedEmbedding:
        """Embeds `inputs` inputs: the vectors of the script in turn."""
        self.ids.append(request_id)
        count = len(self.vectors)
        vectors = [memoryview(self.vectors[at % count]) for at in range(inputs)]
        return ScriptedEmbedding(vectors, tokens, error=self.error, answered=self.embedded)

    async def _prepare(self, request: Request, owner: str, permit: Permit) -> None:
        permit.begin()
        self.asked.append(request)
        self.owners.append(owner)
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if self.refusal is not None:
            raise self.refusal

    def _stop(self) -> None:
        self.stops += 1
        self.closed.set()
