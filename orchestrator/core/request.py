"""The one internal request: checked, and independent of any dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from orchestrator.core.messages import Message, Tool
from orchestrator.core.value import value

RouteHint = Literal["local-only", "cloud-ok"]
ToolMode = Literal["none", "auto", "required", "named"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high"]


@value
class ToolChoice:
    """Whether tools may, must or must not be called; `name` is the tool of mode `named`."""

    mode: ToolMode = "auto"
    name: str = ""


@value
class JsonFormat:
    """The answer is one JSON object."""


@value
class JsonSchemaFormat:
    """The answer is JSON that `schema` accepts. `name` is the caller's name for the schema.

    The code that reads the caller's body has passed `schema` to `check_schema`.
    """

    schema: Mapping[str, Any]
    name: str = ""
    strict: bool = False


ResponseFormat = JsonFormat | JsonSchemaFormat


@value
class ChatPrompt:
    """A conversation, which the model's chat template renders.

    `prefill` is the beginning of the assistant's turn. The answer continues it and does not
    repeat it.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    prefill: str = ""


@value
class TextPrompt:
    """Plain text, tokenised unchanged; by default with the special tokens around a prompt."""

    text: str
    add_special_tokens: bool = True


@value
class TokenPrompt:
    """Token ids of the model's own vocabulary."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@value
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


@value
class GenerationRequest:
    """What a caller wants generated. It has no `stream` field: the edge decides how to send it.

    `max_tokens` of `None` means whatever fits the model's context. `stop` strings are matched on
    text and never appear in the answer. `n` choices are drawn with seeds `seed + 0 … seed + n-1`.
    `tool_choice` matters where the prompt offers tools. `response_format` of `None` is free text.
    `top_logprobs` of `None` asks for no log-probabilities, 0 for those of the drawn tokens, more
    for that many of the likeliest tokens as well. `reasoning` of `None` leaves it to the model.
    With `whole` the client sees nothing before the end of the answer, so the engine may send it in
    one response. With `clamps` a `max_tokens` above the room beside the prompt means all that room.
    """

    model: str
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    top_logprobs: int | None = None
    reasoning: ReasoningEffort | None = None
    route_hint: RouteHint = "local-only"
    whole: bool = False
    clamps: bool = False


@value
class EmbeddingRequest:
    """Texts or token id lists to turn into one vector each."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    route_hint: RouteHint = "local-only"
