"""What replies of the Responses API look like, for `/openapi.json`; a test holds replies to it.

Nothing is encoded by these structs: replies are made where their values are.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from orchestrator.http.error_replies import Seconds

Status = Literal["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]


class ResponseFault(msgspec.Struct, kw_only=True):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(msgspec.Struct, kw_only=True):
    """Why a response ended early."""

    reason: Literal["max_output_tokens", "content_filter"]


class InputTokensDetails(msgspec.Struct, kw_only=True):
    """What of the prompt was known already."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(msgspec.Struct, kw_only=True):
    """What of the answer was reasoning."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, kw_only=True):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Response(msgspec.Struct, kw_only=True):
    """A response. `output` holds messages, calls of functions and custom tools, and reasoning."""

    id: str
    object: Literal["response"]
    created_at: Seconds
    status: Status
    background: bool
    completed_at: Seconds | None
    error: ResponseFault | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, str]


class DeletedResponse(msgspec.Struct, kw_only=True):
    """A response that is no more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(msgspec.Struct, kw_only=True):
    """How many tokens a request would put in."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class ItemList(msgspec.Struct, kw_only=True):
    """A page of items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
