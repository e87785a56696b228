"""Streams whose first token does not come: they open, ping, and report errors as events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchestrator.core.errors import ModelUnavailable
from orchestrator.settings import ServerSettings
from tests.wire.harness import Bench, bench, call

SAID = {"model": "acme/chat", "messages": [{"role": "user", "content": "hi"}]}
CONTENTS = {"contents": [{"parts": [{"text": "hi"}]}]}
PING = b": ping\n\n"
DIALECTS: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "chat": ("/v1/chat/completions", {**SAID, "stream": True}, PING),
    "completions": (
        "/v1/completions",
        {"model": "acme/chat", "prompt": ["a", "b"], "max_tokens": 2, "stream": True},
        PING,
    ),
    "responses": ("/v1/responses", {"model": "acme/chat", "input": "hi", "stream": True}, PING),
    "messages": (
        "/v1/messages",
        {**SAID, "max_tokens": 2, "stream": True},
        b'event: ping\ndata: {"type":"ping"}\n\n',
    ),
    "gemini": ("/v1beta/models/acme/chat:streamGenerateContent", CONTENTS, b"\n"),
}
SLOW_S = 0.3


@pytest.fixture
async def silent(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench that takes long to begin, and pings soon."""
    server = ServerSettings(max_body_bytes=4096, ping_after_s=0.05)
    async with bench(tmp_path, server=server) as made:
        made.backend.slow_s = SLOW_S
        yield made


async def written(service: Bench, dialect: str) -> tuple[dict[str, Any], list[bytes], list[bytes]]:
    """The head of the reply, the pings before anything else, and all other writes."""
    path, body, ping = DIALECTS[dialect]
    head, *rest = await call(service.app, path=path, body=orjson.dumps(body))
    writes = [message["body"] for message in rest]
    count = next(index for index, write in enumerate(writes) if write != ping)
    return head, writes[:count], writes[count:]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_silent_stream_opens_and_pings_before_its_first_token(
    silent: Bench, dialect: str
) -> None:
    head, pings, writes = await written(silent, dialect)
    assert head["status"] == 200
    assert pings
    # The generation's own headers come too late.
    assert b"x-op-model" not in dict(head["headers"])
    assert b"there" in b"".join(writes)
    silent.backend.slow_s = 0
    head, pings, again = await written(silent, dialect)
    assert (pings, dict(head["headers"])[b"x-op-model"]) == ([], b"acme/chat")
    assert len(again) >= 1


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_error_after_the_silence_is_an_event_of_the_dialects_own(
    silent: Bench, dialect: str
) -> None:
    silent.backend.events = ()
    silent.backend.error = ModelUnavailable("The engine went away.")
    head, pings, writes = await written(silent, dialect)
    assert head["status"] == 200
    assert pings
    text = b"".join(writes).decode()
    assert "The engine went away." in text
    match dialect:
        case "gemini":
            (document,) = json.loads(text)
            assert document["error"]["status"] == "UNAVAILABLE"
        case "messages":
            assert text.startswith('event: error\ndata: {"type":"error"')
        case "responses":
            events = [line for line in text.split("\n") if line.startswith("data: ")]
            created, failed = (json.loads(event.removeprefix("data: ")) for event in events[:-1])
            assert (created["type"], failed["type"]) == ("response.created", "response.failed")
            assert (created["sequence_number"], failed["sequence_number"]) == (0, 1)
            assert failed["response"]["store"] is False
            assert events[-1] == "data: [DONE]"
        case _:
            assert text.endswith("data: [DONE]\n\n")
            assert '"finish_reason":"error"' in text
    # Sooner than that, it has its own status.
    silent.backend.slow_s = 0
    path, body, _ = DIALECTS[dialect]
    head, *_ = await call(silent.app, path=path, body=orjson.dumps(body))
    assert head["status"] == 503


async def test_a_failure_of_ours_after_the_silence_is_reported_without_its_cause(
    silent: Bench,
) -> None:
    silent.backend.events = ()
    silent.backend.error = ValueError("a secret")
    _, pings, writes = await written(silent, "chat")
    assert pings
    text = b"".join(writes).decode()
    assert '"code":"internal_error"' in text
    assert "secret" not in text


async def test_a_client_that_leaves_in_the_silence_ends_the_wait(silent: Bench) -> None:
    silent.backend.slow_s = 3600
    sent: list[dict[str, Any]] = []
    pinged = asyncio.Event()
    path, body, _ = DIALECTS["chat"]
    waiting = [{"type": "http.request", "body": orjson.dumps(body), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await pinged.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 2:
            pinged.set()

    await asyncio.wait_for(call(silent.app, path=path, receive=receive, send=send), 60)
    assert sent[0]["status"] == 200
