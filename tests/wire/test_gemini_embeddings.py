"""Google's embeddings: bodies to requests, vectors to bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgspec
import pytest
from google.genai.types import EmbedContentResponse as SdkResponse

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.request import EmbeddingRequest
from orchestrator.pipeline.gateway import Embeddings
from orchestrator.wire.gemini.embeddings import decode, decode_batch, encode
from orchestrator.wire.gemini.replies import BatchEmbedContentsResponse, EmbedContentResponse
from orchestrator.wire.gemini.request import EmbedBatchBody, EmbedBody, GeminiReader
from tests.wire.golden import check

ONE = {"content": {"parts": [{"text": "a"}, {"text": "b"}]}}
TWO = {"content": {"parts": [{"text": "c"}]}, "model": "models/acme/embed"}


def batch(*requests: dict[str, Any]) -> EmbeddingRequest:
    body = GeminiReader(EmbedBatchBody).read(json.dumps({"requests": requests}).encode())
    return decode_batch("acme/embed", body)


def test_one_content_is_one_text() -> None:
    body = {**ONE, "taskType": "RETRIEVAL_DOCUMENT", "title": "t", "output_dimensionality": 4}
    read = GeminiReader(EmbedBody).read(json.dumps(body).encode())
    assert decode("acme/embed", read) == EmbeddingRequest("acme/embed", ("ab",), 4)


def test_a_batch_has_a_text_for_each_request() -> None:
    assert batch(ONE, TWO) == EmbeddingRequest("acme/embed", ("ab", "c"))
    assert len(batch(*[ONE] * 2048).inputs) == 2048


@pytest.mark.parametrize(
    ("requests", "param", "message"),
    [
        ([], "requests", "1 to 2048 requests; it holds 0"),
        ([ONE] * 2049, "requests", "it holds 2049"),
        ([ONE, {"content": {}}], "requests[1].content", "is empty"),
        ([{**ONE, "model": "models/x"}], "requests[0].model", "`models/acme/embed`"),
        (
            [{"content": {"parts": [{"inlineData": {}}]}}],
            "requests[0].content.parts[0]",
            "text only",
        ),
        ([ONE, {**TWO, "outputDimensionality": 4}], "requests[0].outputDimensionality", "the same"),
        ([{**ONE, "outputDimensionality": 0}], "requests[0].outputDimensionality", "at least 1"),
    ],
)
def test_what_is_wrong_is_named(requests: list[dict[str, Any]], param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        batch(*requests)
    assert caught.value.param == param
    assert message in caught.value.message


def test_vectors_become_these_very_bytes() -> None:
    packed = [memoryview(struct.pack("<3f", *one)) for one in ([0.1, -2.5, 3e-8], [1.0, 0.0, 2.0])]
    embeddings = Embeddings("acme/embed", packed, 7, {})
    one, all_of_them = encode(embeddings, batch=False), encode(embeddings, batch=True)
    check("gemini/results/embedding.json", one)
    check("gemini/results/embeddings.json", all_of_them)
    for body, kind in ((one, EmbedContentResponse), (all_of_them, BatchEmbedContentsResponse)):
        told: Any = msgspec.json.decode(body, type=kind)
        assert msgspec.to_builtins(told) == json.loads(body)
    response = SdkResponse.model_validate_json(all_of_them)
    assert response.embeddings is not None
    assert response.embeddings[1].values == [1.0, 0.0, 2.0]
