"""OpenAI's embeddings: bodies to requests, vectors to bytes."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import InvalidRequest
from orchestrator.http.bodies import BodyReader
from orchestrator.pipeline.gateway import Embeddings
from orchestrator.wire.openai.embeddings import (
    MAX_INPUTS,
    EmbeddingsRequest,
    decode,
    encode,
    encoding_format,
)
from tests.wire.golden import check, check_json

REQUESTS: dict[str, dict[str, Any]] = {
    "text": {"input": "The quick brown fox"},
    "texts": {"input": ["a", "b"], "encoding_format": "base64", "user": "u"},
    "ids": {"input": [1, 2, 3]},
    "lists of ids": {"input": [[1, 2], [3]], "dimensions": 4, "route_hint": "cloud-ok"},
}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing": ({}, "input", "`input` is required."),
    "null": ({"input": None}, "input", "got `null`"),
    "empty text": ({"input": ""}, "input", "`input[0]` is empty"),
    "empty list": ({"input": []}, "input", "empty list"),
    "empty text in a list": ({"input": ["a", ""]}, "input", "`input[1]` is empty"),
    "empty ids in a list": ({"input": [[1], []]}, "input", "`input[1]` is empty"),
    "mixed": ({"input": ["a", 1]}, "input", "mixed"),
    "no id": ({"input": [1, -1]}, "input", "holds -1"),
    "no id inside": ({"input": [[1], [2**31]]}, "input", "`input[1]` holds 2147483648"),
    "too many": ({"input": ["a"] * 2049}, "input", "2048 entries at most; it holds 2049"),
    "format": ({"input": "a", "encoding_format": "hex"}, "encoding_format", '"hex" was given'),
    "dimensions": ({"input": "a", "dimensions": 0}, "dimensions", "at least 1; 0 was given"),
    "model": ({"input": "a", "model": ""}, "model", "may not be empty"),
}


def read(body: dict[str, Any]) -> EmbeddingsRequest:
    return BodyReader(EmbeddingsRequest).read(json.dumps({"model": "acme/embed", **body}).encode())


@pytest.mark.parametrize("name", REQUESTS)
def test_a_body_becomes_the_one_request(name: str) -> None:
    body = REQUESTS[name]
    read_body = read(body)
    check_json(
        f"embeddings/requests/{name.replace(' ', '_')}.json",
        {
            "body": body,
            "request": asdict(decode(read_body)),
            "encoding_format": encoding_format(read_body),
        },
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_with_limit_and_value(name: str) -> None:
    body, param, message = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        check_all(body)
    assert caught.value.param == param
    assert message in caught.value.message


def test_as_many_inputs_as_allowed_are_taken() -> None:
    assert len(decode(read({"input": ["a"] * MAX_INPUTS})).inputs) == MAX_INPUTS
    assert len(decode(read({"input": [1] * 5000})).inputs) == 1


def check_all(body: dict[str, Any]) -> None:
    read_body = read(body)
    decode(read_body)
    encoding_format(read_body)


def answer(*vectors: list[float]) -> Embeddings:
    packed = [memoryview(struct.pack(f"<{len(one)}f", *one)) for one in vectors]
    return Embeddings("acme/embed", packed, 7, {})


def test_vectors_become_these_very_bytes() -> None:
    vectors = answer([0.1, -2.5, 3e-8], [1.0, 0.0, 16777216.0])
    check("embeddings/results/float.json", encode(vectors, "float"))
    check("embeddings/results/base64.json", encode(vectors, "base64"))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_both_encodings_carry_every_bit(vector: list[float]) -> None:
    vectors = answer(vector)
    numbers = json.loads(encode(vectors, "float"))["data"][0]["embedding"]
    assert struct.pack(f"<{len(numbers)}f", *numbers) == bytes(vectors.vectors[0])
    packed = json.loads(encode(vectors, "base64"))["data"][0]["embedding"]
    assert base64.b64decode(packed, validate=True) == bytes(vectors.vectors[0])
