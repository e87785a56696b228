"""The one internal request: checked, and without any dialect left in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.core.messages import Message, Tool

RouteHint = Literal["local-only", "cloud-ok"]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, still to be rendered by the model's chat template."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Plain text, tokenised as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids of the model's own vocabulary."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn. `None` means the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a caller wants generated. There is no `stream` field: streaming is the edge's business.

    `max_tokens` of `None` means whatever fits the model's context. `stop` strings are matched on
    text and never appear in the answer. `n` choices are drawn with seeds `seed + 0 … seed + n-1`.
    """

    model: str
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    route_hint: RouteHint = "local-only"


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts or token id lists to turn into one vector each."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    route_hint: RouteHint = "local-only"
