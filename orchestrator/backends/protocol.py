"""Where answers come from: one file for each kind of engine, all behind one protocol."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.contract.catalogue import Model
from orchestrator.contract.manifest import Manifest
from orchestrator.core.event_source import EventSource
from orchestrator.core.events import Usage
from orchestrator.core.request import (
    EmbeddingRequest,
    GenerationRequest,
    Prompt,
    ReasoningEffort,
    SamplingParams,
)
from orchestrator.core.value import value
from orchestrator.rendering import Renderer
from orchestrator.triton.contract import Guide


@value
class ServedModel:
    """A catalogue entry with what was built for it. `defaults` are the model's own sampling."""

    model: Model
    manifest: Manifest
    renderer: Renderer
    defaults: SamplingParams


@value
class Prepared:
    """A request in tokens, checked against the model's limits and not started yet.

    `guide` is what the engine is to be held to, if anything; where `calls_first` is true, only an
    answer that is no tool call is. What is cached of the prompt serves those of the same
    `cache_salt`. Where it has to wait it counts as a call of `owner`.
    """

    served: ServedModel
    request: GenerationRequest
    token_ids: Sequence[int]
    max_tokens: int
    guide: Guide | None = None
    calls_first: bool = False
    cache_salt: int = 0
    owner: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, counted once however many choices are drawn."""
        return len(self.token_ids)

    @property
    def most_tokens(self) -> int:
        """The most that this request can cost: the prompt and every choice at full length."""
        return len(self.token_ids) + self.request.n * self.max_tokens


@value
class PreparedEmbedding:
    """Inputs in tokens, checked against the model's limits. `owner` as of `Prepared`."""

    served: ServedModel
    rows: Sequence[Sequence[int]]
    owner: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all inputs."""
        return sum(map(len, self.rows))


class Run(EventSource):
    """One generation at work, and its events: the first come with the first token."""

    is_streamed = True
    """Whether tokens come as the engine makes them, not all at its end."""

    @abstractmethod
    def stop(self) -> None:
        """Ends the work on the engine's side, if it has not ended. Twice is once."""

    @abstractmethod
    def so_far(self) -> Usage:
        """The prompt, and what the engine has made for the answer until now, read or not."""

    @property
    @abstractmethod
    def answered(self) -> int:
        """Tokens of the answer whose text is in the events that were taken."""

    @property
    @abstractmethod
    def dropped(self) -> int:
        """Tokens that the engine made beside the answer: behind its end, or in vain."""

    @property
    @abstractmethod
    def has_ended(self) -> bool:
        """Whether the engine's side has ended; it may go on for a moment when it is stopped."""

    @abstractmethod
    async def produced(self) -> Usage:
        """`so_far`, told when the engine's side has ended.

        To be called when the events have ended or after `stop`. It counts what came after a reader
        left, too.
        """


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

    async def prepare(
        self,
        served: ServedModel,
        request: GenerationRequest,
        owner: str = "",
        sharing: tuple[str, ...] = (),
        permit: Permit = NO_LIMITS,
    ) -> Prepared:
        """`request` in tokens. Raises: InvalidRequest, ContextLengthExceeded, RateLimited.

        What is remembered of its prompt serves prompts of the same `owner` only. What the engine
        caches of it serves those of `sharing` as well, where they name `owner` and each other.
        Long prompts of several owners take turns. Cancelled, it returns when nothing is worked on
        any more.
        """
        ...

    async def tokens(
        self,
        served: ServedModel,
        prompt: Prompt,
        reasoning: ReasoningEffort | None,
        owner: str,
        permit: Permit,
    ) -> Sequence[int]:
        """The token ids of `prompt`. Raises: as `prepare`."""
        ...

    async def text(
        self, served: ServedModel, token_ids: Sequence[int], owner: str, permit: Permit
    ) -> str:
        """The text of `token_ids`. Raises: InvalidRequest, ContextLengthExceeded."""
        ...

    def generate(self, prepared: Prepared, request_id: str) -> Run:
        """A generation that has been asked for."""
        ...

    async def prepare_embedding(
        self,
        served: ServedModel,
        request: EmbeddingRequest,
        owner: str = "",
        permit: Permit = NO_LIMITS,
    ) -> PreparedEmbedding:
        """`request` in tokens. Raises: as `prepare`."""
        ...

    async def embed(
        self,
        prepared: PreparedEmbedding,
        request_id: str,
        on_answer: Callable[[int], None] | None = None,
    ) -> Sequence[memoryview]:
        """One float32 little-endian vector for each input, in their order. Raises: GatewayError.

        `on_answer` is called with the tokens of inputs whose vectors have come.
        """
        ...
