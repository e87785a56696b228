"""A catalogue model as Triton serves it, and prepared requests to it."""

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
    """A catalogue entry and its build. `defaults` are the model's own sampling parameters."""

    model: Model
    manifest: Manifest
    renderer: Renderer
    defaults: SamplingParams


@value
class PreparedGeneration:
    """A generation in tokens, checked against the model's limits and not started yet.

    `guide` constrains the answer, if set; with `calls_first`, it does not constrain tool calls.
    What is cached of the prompt serves prompts of the same `cache_salt`. If the request has to
    wait, it waits as a call of `owner`. `starting` sends the request to the engine.
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
        """Tokens of the prompt, counted once for all choices."""
        return len(self.token_ids)

    @property
    def most_tokens(self) -> int:
        """The max tokens of this request: the prompt and every choice at full length."""
        return len(self.token_ids) + self.request.n * self.max_tokens

    def start(self, request_id: str) -> GenerationRun:
        """Sends the request to the engine."""
        return self.starting(self, request_id)


@value
class PreparedEmbedding:
    """Inputs in tokens, checked against the model's limits. Members as in `PreparedGeneration`."""

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
        """The max tokens of this request: its inputs."""
        return self.prompt_tokens

    def start(self, request_id: str) -> EmbeddingRun:
        """A run that sends its requests when its vectors are awaited."""
        return self.starting(self, request_id)
