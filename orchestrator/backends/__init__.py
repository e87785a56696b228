"""Where answers come from: one file for each kind of engine, all behind one protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.catalogue import Model
from orchestrator.core.events import GenerationEvent, Usage
from orchestrator.core.request import EmbeddingRequest, GenerationRequest, SamplingParams
from orchestrator.manifest import Manifest
from orchestrator.rendering import Renderer
from orchestrator.triton.contract import Guide


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A catalogue entry with what was built for it. `defaults` are the model's own sampling."""

    model: Model
    manifest: Manifest
    renderer: Renderer
    defaults: SamplingParams


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request in tokens, checked against the model's limits and not started yet.

    `guide` is what the engine is to be held to, if anything; where `calls_first` is true, only an
    answer that is no tool call is.
    """

    served: ServedModel
    request: GenerationRequest
    token_ids: Sequence[int]
    max_tokens: int
    guide: Guide | None = None
    calls_first: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, counted once however many choices are drawn."""
        return len(self.token_ids)

    @property
    def most_tokens(self) -> int:
        """The most that this request can cost: the prompt and every choice at full length."""
        return len(self.token_ids) + self.request.n * self.max_tokens


@dataclass(frozen=True, slots=True)
class PreparedEmbedding:
    """Inputs in tokens, checked against the model's limits."""

    served: ServedModel
    rows: Sequence[Sequence[int]]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all inputs."""
        return sum(len(row) for row in self.rows)


class Run(Protocol):
    """One generation at work."""

    def events(self) -> AsyncGenerator[GenerationEvent, None]:
        """Its events, once; the first comes with the first token.

        Closing the iterator ends the work on the engine's side. Raises: GatewayError.
        """
        ...

    def so_far(self) -> Usage:
        """What the engine has produced until now."""
        ...

    async def produced(self) -> Usage:
        """What the engine has produced, told when its side has ended.

        To be called when `events` has ended or was closed. It counts what came after a reader
        left, too.
        """
        ...


class Backend(Protocol):
    """A kind of engine."""

    name: str

    async def prepare(self, served: ServedModel, request: GenerationRequest) -> Prepared:
        """`request` in tokens. Raises: InvalidRequest, ContextLengthExceeded."""
        ...

    def generate(self, prepared: Prepared, request_id: str) -> Run:
        """A generation that has been asked for."""
        ...

    async def prepare_embedding(
        self, served: ServedModel, request: EmbeddingRequest
    ) -> PreparedEmbedding:
        """`request` in tokens. Raises: InvalidRequest, ContextLengthExceeded."""
        ...

    async def embed(self, prepared: PreparedEmbedding, request_id: str) -> Sequence[memoryview]:
        """One float32 little-endian vector for each input, in their order. Raises: GatewayError."""
        ...
