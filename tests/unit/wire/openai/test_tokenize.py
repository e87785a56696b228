"""Counting tokens as vLLM's clients do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Message, TextPart
from orchestrator.core.request import ChatPrompt, TextPrompt
from orchestrator.http.bodies import BodyReader
from orchestrator.wire.openai.tokenize import TokenizeRequest, decode
from tests.wire.harness import Bench

USER = {"role": "user", "content": "Hello!"}


def read(**body: Any) -> TokenizeRequest:
    return BodyReader(TokenizeRequest).read(json.dumps({"model": "acme/chat", **body}).encode())


def test_texts_and_conversations_are_read() -> None:
    assert decode(read(prompt="x")).prompt == TextPrompt("x")
    bare = decode(read(prompt="x", add_special_tokens=False)).prompt
    assert bare == TextPrompt("x", add_special_tokens=False)
    switched = decode(read(messages=[USER], chat_template_kwargs={"enable_thinking": False}))
    assert switched.reasoning == "none"
    chat = decode(read(messages=[USER], reasoning_effort="none"))
    assert chat.prompt == ChatPrompt((Message("user", (TextPart("Hello!"),)),))
    assert chat.reasoning == "none"


@pytest.mark.parametrize("body", [{}, {"prompt": "x", "messages": [USER]}])
def test_one_of_both_is_required(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="One of `prompt` and `messages`"):
        decode(read(**body))


@pytest.mark.parametrize("prefix", ["", "/v1", "/api/v1"])
async def test_tokens_are_counted_and_turned_back(service: Bench, prefix: str) -> None:
    body = {"model": "acme/chat", "prompt": "hello", "return_token_strs": True}
    reply = await service.post(f"{prefix}/tokenize", body)
    assert reply.json() == {
        "count": 1, "max_model_len": 64, "tokens": [0], "token_strs": ["hello"],
    }  # fmt: skip
    del body["return_token_strs"]
    assert (await service.post(f"{prefix}/tokenize", body)).json()["token_strs"] is None
    back = await service.post(f"{prefix}/detokenize", {"model": "acme/chat", "tokens": [0]})
    assert back.json() == {"prompt": "hello"}


async def test_unknown_tokens_and_models_are_refused(service: Bench) -> None:
    reply = await service.post("/v1/detokenize", {"model": "acme/chat", "tokens": [99]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tokens")
    reply = await service.post("/v1/tokenize", {"model": "no/such", "prompt": "x"})
    assert reply.status_code == 404
