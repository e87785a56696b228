"""OpenAI's chat replies, for the description of the API: they are written without structs."""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class CachedTokens(msgspec.Struct, kw_only=True):
    """What of the prompt was computed before."""

    cached_tokens: int


class ReasoningTokens(msgspec.Struct, kw_only=True):
    """What of the answer was thought and not said."""

    reasoning_tokens: int


class CompletionUsage(msgspec.Struct, kw_only=True):
    """Tokens of one request, all choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class LikelyToken(msgspec.Struct, kw_only=True):
    """A token that could have come."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(LikelyToken, kw_only=True):
    """A token that came, and the likeliest in its place."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(msgspec.Struct, kw_only=True):
    """The tokens of the text, where they were asked for."""

    content: list[TokenLogprob]
    refusal: None = None


class CalledFunction(msgspec.Struct, kw_only=True):
    """A call; `arguments` is JSON text as the model wrote it."""

    name: str
    arguments: str


class CalledCustomTool(msgspec.Struct, kw_only=True):
    """A call of a custom tool; `input` is the text that the model wrote for it."""

    name: str
    input: str


class ChatToolCall(msgspec.Struct, kw_only=True, tag_field="type", tag="function"):
    """A call with its id."""

    id: str
    function: CalledFunction


class ChatCustomCall(msgspec.Struct, kw_only=True, tag_field="type", tag="custom"):
    """A call of a custom tool with its id."""

    id: str
    custom: CalledCustomTool


class ChatAnswer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the model said, thought and called."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ChatToolCall | ChatCustomCall] | msgspec.UnsetType = msgspec.UNSET
    function_call: CalledFunction | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct, kw_only=True):
    """One answer."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatResponse(msgspec.Struct, kw_only=True):
    """The whole reply."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: CompletionUsage
