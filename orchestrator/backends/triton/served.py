"""A model of the catalogue as Triton serves it, and requests to it in tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.backends.protocol import EmbeddingRun, GenerationRun
from orchestrator.contract.catalogue import Model
from orchestrator.contract.manifest import Manifest
from orchestrator.core.request import EmbeddingRequest, GenerationRequest, SamplingParams
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
class PreparedGeneration:
    """A generation in tokens, checked against the model's limits and not started yet.

    `guide` is what the engine is to be held to, if anything; where `calls_first` is true, only an
    answer that is no tool call is. What is cached of the prompt serves those of the same
    `cache_salt`. Where it has to wait it counts as a call of `owner`. `starting` asks the engine.
    """

    served: ServedModel
    request: GenerationRequest
    token_ids: Sequence[int]
    max_tokens: int
    starting: Callable[[PreparedGeneration, str], GenerationRun]
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

    def start(self, request_id: str) -> GenerationRun:
        """Asks the engine."""
        return self.starting(self, request_id)


@value
class PreparedEmbedding:
    """Inputs in tokens, checked against the model's limits. Members as of `PreparedGeneration`."""

    served: ServedModel
    request: EmbeddingRequest
    rows: Sequence[Sequence[int]]
    starting: Callable[[PreparedEmbedding, str], EmbeddingRun]
    owner: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all inputs."""
        return sum(map(len, self.rows))

    @property
    def most_tokens(self) -> int:
        """The most that this request can cost: its inputs."""
        return self.prompt_tokens

    def start(self, request_id: str) -> EmbeddingRun:
        """A run that asks the engine for its vectors."""
        return self.starting(self, request_id)
