"""The shapes of OpenAI's embedding replies, for `/openapi.json`."""

from __future__ import annotations

from typing import Literal

import msgspec


class EmbeddingsUsage(msgspec.Struct, kw_only=True):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, kw_only=True):
    """One vector: numbers, or float32 little endian in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsResponse(msgspec.Struct, kw_only=True):
    """Vectors in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage
