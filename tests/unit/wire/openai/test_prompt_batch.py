"""Several prompts of one request, through the edge."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.core.errors import ModelUnavailable
from tests.wire.harness import Bench, answer


async def post(service: Bench, **body: Any) -> dict[str, Any]:
    reply = await service.post("/v1/completions", {"model": "acme/chat", **body})
    told: dict[str, Any] = reply.json()
    return told


async def test_prompts_are_answered_in_their_order_and_summed(service: Bench) -> None:
    told = await post(service, prompt=["a", "b", "c"], echo=True)
    assert [(choice["index"], choice["text"]) for choice in told["choices"]] == [
        (0, "aHello there"), (1, "bHello there"), (2, "cHello there"),
    ]  # fmt: skip
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (27, 6)
    assert told["id"].startswith("cmpl-")
    assert len(service.backend.asked) == 3


async def test_a_stream_of_prompts_interleaves_their_choices(service: Bench) -> None:
    body = {"model": "acme/chat", "prompt": ["a", "b"], "stream": True}
    reply = await service.post("/v1/completions", body)
    frames = reply.content.split(b"\n\n")[:-1]
    assert frames[-1] == b"data: [DONE]"
    chunks = [json.loads(frame[6:]) for frame in frames[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "Hello there", 1: "Hello there"}


async def test_a_batch_that_fails_at_its_begin_is_a_status(service: Bench) -> None:
    service.backend.events = ()
    service.backend.error = ModelUnavailable("gone")
    reply = await service.post("/v1/completions", {"model": "acme/chat", "prompt": ["a", "b"]})
    assert (reply.status_code, reply.json()["code"]) == (503, "model_unavailable")


async def test_a_batch_that_fails_later_tells_it_in_the_stream(service: Bench) -> None:
    service.backend.events = answer("Hello")[:3]
    service.backend.error = ModelUnavailable("gone")
    body = {"model": "acme/chat", "prompt": ["a", "b"], "stream": True}
    frames = (await service.post("/v1/completions", body)).content.split(b"\n\n")
    assert json.loads(frames[-3][6:])["error"]["code"] == "model_unavailable"
    assert frames[-2] == b"data: [DONE]"


async def test_token_ids_are_repeated_as_text(service: Bench) -> None:
    told = await post(service, prompt=[0, 0], echo=True)
    assert told["choices"][0]["text"] == "hello helloHello there"


async def test_misspelt_limits_are_refused(service: Bench) -> None:
    told = await post(service, prompt="a", max_token=5)
    assert told["error"]["param"] == "max_token"
    assert "did you mean `max_tokens`" in told["error"]["message"]
