"""A backend as the pipeline knows it: without engines, tensors or token ids.

A backend prepares a request; the prepared request starts a run; the run knows what it costs.
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
    """The work of a backend for one request, from start to end."""

    @abstractmethod
    def stop(self) -> None:
        """Stops the engine's work, if it has not finished. Idempotent."""

    @property
    @abstractmethod
    def has_ended(self) -> bool:
        """Whether the engine has finished. It may go on for a moment after `stop`."""

    @abstractmethod
    async def ended(self) -> None:
        """Waits until the engine has finished. To be called at the end, or after `stop`."""

    @abstractmethod
    def cost(self, outcome: Outcome, *, sent: bool) -> Cost:
        """What the request costs if it ends now, by the rule of `core/costs.py`.

        `sent` says whether the client has received the part of the answer that was taken.
        """


class GenerationRun(Run, EventSource):
    """One running generation, and its events. The first events come with the first token."""

    is_streamed = True
    """Whether tokens come as the engine makes them, not all at the end."""


class EmbeddingRun(Run):
    """One running embedding of inputs."""

    @abstractmethod
    async def vectors(self) -> Sequence[memoryview]:
        """One float32 little-endian vector for each input, in their order. Raises: GatewayError."""


class Prepared(Protocol[RunT_co]):
    """A request that was checked against its model's limits and has not started."""

    @property
    def request(self) -> Request:
        """The request that was prepared."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, or of all inputs."""
        ...

    @property
    def most_tokens(self) -> int:
        """The max number of tokens that it can cost."""
        ...

    def start(self, request_id: str) -> RunT_co:
        """Sends the request to the engine."""
        ...


class Permit(Protocol):
    """The caller's limits, as work on a prompt uses them. Methods may be called in any thread."""

    def check(self, tokens: int) -> None:
        """`tokens` is the least that the work can need. Raises: RateLimited where fewer remain."""

    def begin(self) -> None:
        """Called when the work begins. A request that is refused before has cost nothing."""


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
        """Raises: ModelUnavailable where `model` cannot serve requests now."""
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

        What the backend caches of the prompt serves prompts of the same `owner` only. What the
        engine caches of it serves the tenants of `sharing` as well, if they name `owner` and each
        other. Long prompts of several owners take turns. When cancelled, it returns after its work
        has stopped.
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
        r"""The text of each of `token_ids`; bytes that form no character become `\xff`."""
        ...
