"""What Gemini's replies look like, for `/openapi.json`; a test holds replies to it.

Nothing is encoded by these structs: replies are made where their values are.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class FunctionCallReply(msgspec.Struct):
    """A call that the model asks for."""

    id: str
    name: str
    args: dict[str, Any]


class PartReply(msgspec.Struct, rename="camel"):
    """A part of an answer: text, a thought, or a call."""

    text: str | UnsetType = UNSET
    thought: bool | UnsetType = UNSET
    function_call: FunctionCallReply | UnsetType = UNSET


class ContentReply(msgspec.Struct):
    """An answer, or in a stream the next piece of it."""

    parts: list[PartReply]
    role: Literal["model"]


class LogprobsCandidate(msgspec.Struct, rename="camel"):
    """A token and its log-probability."""

    token: str
    token_id: int
    log_probability: float


class TopCandidates(msgspec.Struct):
    """The likeliest tokens in the place of one."""

    candidates: list[LogprobsCandidate]


class LogprobsResult(msgspec.Struct, rename="camel"):
    """The log-probabilities of the tokens of an answer."""

    chosen_candidates: list[LogprobsCandidate]
    top_candidates: list[TopCandidates]
    log_probability_sum: float


class Candidate(msgspec.Struct, rename="camel"):
    """One answer. Pieces of a stream have their reason in the last."""

    content: ContentReply
    index: int
    finish_reason: (
        Literal["STOP", "MAX_TOKENS", "SAFETY", "MALFORMED_FUNCTION_CALL"] | UnsetType
    ) = UNSET
    logprobs_result: LogprobsResult | UnsetType = UNSET
    avg_logprobs: float | UnsetType = UNSET


class ModalityTokenCount(msgspec.Struct, rename="camel"):
    """Tokens by what they came from."""

    modality: Literal["TEXT"]
    token_count: int


class UsageMetadata(msgspec.Struct, rename="camel"):
    """Token counts of a request."""

    prompt_token_count: int
    candidates_token_count: int
    total_token_count: int
    prompt_tokens_details: list[ModalityTokenCount]
    cached_content_token_count: int | UnsetType = UNSET
    thoughts_token_count: int | UnsetType = UNSET


class GenerateContentResponse(msgspec.Struct, rename="camel"):
    """Answers to contents, or in a stream the next piece of them."""

    candidates: list[Candidate]
    usage_metadata: UsageMetadata
    model_version: str
    response_id: str


class CountTokensResponse(msgspec.Struct, rename="camel"):
    """The tokens of a prompt."""

    total_tokens: int
    prompt_tokens_details: list[ModalityTokenCount]


class ContentEmbedding(msgspec.Struct):
    """One vector."""

    values: list[float]


class EmbeddingUsage(msgspec.Struct, rename="camel"):
    """Token counts of texts to embed."""

    prompt_token_count: int
    prompt_tokens_details: list[ModalityTokenCount]


class EmbedContentResponse(msgspec.Struct, rename="camel"):
    """The vector of a content."""

    embedding: ContentEmbedding
    usage_metadata: EmbeddingUsage


class BatchEmbedContentsResponse(msgspec.Struct, rename="camel"):
    """The vectors of several contents, in their order."""

    embeddings: list[ContentEmbedding]
    usage_metadata: EmbeddingUsage


class ModelReply(msgspec.Struct, rename="camel"):
    """A model."""

    name: str
    base_model_id: str
    version: str
    display_name: str
    input_token_limit: int
    output_token_limit: int
    supported_generation_methods: list[str]


class ListModelsResponse(msgspec.Struct, rename="camel"):
    """A page of models."""

    models: list[ModelReply]
    next_page_token: str | UnsetType = UNSET


class Status(msgspec.Struct):
    """What went wrong. From `type` on the members are the appliance's own."""

    code: int
    message: str
    status: str
    type: str
    reason: str
    request_id: str


class ErrorReply(msgspec.Struct):
    """An error, and in a stream the last chunk of one that failed."""

    error: Status
