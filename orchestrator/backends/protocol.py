"""What answers requests, as the pipeline knows it: no engine, no tensor and no token id in it.

A backend prepares a request; what it prepares starts a run; a run knows what it costs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from orchestrator.contract.catalogue import Model
from orchestrator.core.costs import Cost, Outcome
from orchestrator.core.event_source import EventSource
from orchestrator.core.request import (
    EmbeddingRequest,
    GenerationRequest,
    Prompt,
    ReasoningEffort,
)

Request: TypeAlias = GenerationRequest | EmbeddingRequest
RunT_co = TypeVar("RunT_co", bound="Run", covariant=True)


class Run(ABC):
    """Work of a backend for one request, from its start to its end."""

    @abstractmethod
    def stop(self) -> None:
        """Ends the work on the engine's side, if it has not ended. Idempotent."""

    @property
    @abstractmethod
    def has_ended(self) -> bool:
        """Whether the engine's side has ended; it may go on for a moment when it is stopped."""

    @abstractmethod
    async def ended(self) -> None:
        """Returns when the engine's side has ended. To be called at the end, or after `stop`."""

    @abstractmethod
    def cost(self, outcome: Outcome, *, sent: bool) -> Cost:
        """What the request costs if this is its end, by the rule of `core/costs.py`.

        `sent` tells whether its client has got what was taken, where that is part of an answer.
        """


class GenerationRun(Run, EventSource):
    """One generation at work, and its events: the first come with the first token."""

    is_streamed = True
    """Whether tokens come as the engine makes them, not all at its end."""


class EmbeddingRun(Run):
    """Inputs that are being embedded."""

    @abstractmethod
    async def vectors(self) -> Sequence[memoryview]:
        """One float32 little-endian vector for each input, in their order. Raises: GatewayError."""


class Prepared(Protocol[RunT_co]):
    """A request that was checked against the limits of its model and has not started."""

    @property
    def request(self) -> Request:
        """What was prepared."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, or of all inputs."""
        ...

    @property
    def most_tokens(self) -> int:
        """The most that it can cost."""
        ...

    def start(self, request_id: str) -> RunT_co:
        """Asks the engine."""
        ...


class Permit(Protocol):
    """What work on a prompt asks of the caller's limits. Both may be called in any thread."""

    def check(self, tokens: int) -> None:
        """Raises: RateLimited where fewer than `tokens`, the least that it can need, are left."""

    def begin(self) -> None:
        """The work begins; what was refused until now has cost nothing."""


class NoLimits:
    """The permit of work that counts against no limit."""

    def check(self, tokens: int) -> None:
        """Refuses nothing."""

    def begin(self) -> None:
        """Counts nothing."""


NO_LIMITS: Permit = NoLimits()


class Backend(Protocol):
    """A kind of engine."""

    name: str

    def check(self, model: Model) -> None:
        """Raises: ModelUnavailable where `model` cannot be asked now."""
        ...

    async def prepare(
        self,
        model: Model,
        request: GenerationRequest,
        owner: str = "",
        sharing: tuple[str, ...] = (),
        permit: Permit = NO_LIMITS,
    ) -> Prepared[GenerationRun]:
        """Raises: InvalidRequest, ContextLengthExceeded, RateLimited, ModelUnavailable.

        What is remembered of its prompt serves prompts of the same `owner` only. What the engine
        caches of it serves those of `sharing` as well, where they name `owner` and each other.
        Long prompts of several owners take turns. Cancelled, it returns when nothing is worked on
        any more.
        """
        ...

    async def prepare_embedding(
        self,
        model: Model,
        request: EmbeddingRequest,
        owner: str = "",
        permit: Permit = NO_LIMITS,
    ) -> Prepared[EmbeddingRun]:
        """Raises: as `prepare`."""
        ...


@runtime_checkable
class TokenizingBackend(Protocol):
    """A backend that has the tokenizers of its models."""

    async def tokens(
        self,
        model: Model,
        prompt: Prompt,
        reasoning: ReasoningEffort | None,
        owner: str,
        permit: Permit,
    ) -> Sequence[int]:
        """The token ids of `prompt`. Raises: as `Backend.prepare`."""
        ...

    async def text(self, model: Model, token_ids: Sequence[int], owner: str, permit: Permit) -> str:
        """The text of `token_ids`. Raises: InvalidRequest, ContextLengthExceeded."""
        ...

    def token_texts(self, model: Model, token_ids: Sequence[int]) -> Sequence[str]:
        r"""The text of each of `token_ids`, bytes that are no character written as `\xff`."""
        ...
