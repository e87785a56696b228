"""Streams on the way out: one write for each step of the answer, pings while nothing comes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from orchestrator.core.events import GenerationEvent
from orchestrator.http.exchange import Exchange
from orchestrator.http.sse import EVENT_STREAM, Framing, send_stream
from orchestrator.settings import HostsSettings, ServerSettings
from orchestrator.wire.openai.chat.routes import Encoder
from tests.wire.harness import Bench, answer, call

EVENTS = answer("Hello", " there")


async def test_what_one_step_brings_about_is_one_write(service: Bench) -> None:
    body = {
        "model": "acme/chat",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent = await call(service.app, body=orjson.dumps(body))
    start, *writes = sent
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"x-accel-buffering"] == b"no"
    assert b"content-length" not in headers
    assert [write["more_body"] for write in writes] == [True] * (len(writes) - 1) + [False]
    for write in writes:
        assert write["body"].startswith(b"data: ")
        assert write["body"].endswith(b"\n\n")
    # The role, two deltas, the reason; then the usage and the end, which nobody waits between.
    assert [write["body"].count(b"\n\n") for write in writes] == [1, 1, 1, 1, 2]


class Delayed:
    """Events that come after a wait each."""

    headers: Mapping[str, str] = {}

    def __init__(self, events: Sequence[tuple[float, GenerationEvent]]) -> None:
        self._events = iter(events)
        self.closed = 0

    async def next(self) -> list[GenerationEvent]:
        wait_s, event = next(self._events, (0.0, None))
        if event is None:
            return []
        await asyncio.sleep(wait_s)
        return [event]

    async def aclose(self, error: BaseException | None = None) -> None:
        self.closed += 1


async def stream(
    events: list[tuple[float, GenerationEvent]], framing: Framing = EVENT_STREAM
) -> list[bytes]:
    """What is written for events that come after a wait each, with pings after 50 ms."""
    written: list[bytes] = []

    async def send(message: Any) -> None:
        written.append(message.get("body", b""))

    async def receive() -> dict[str, Any]:
        return {}

    scope: dict[str, Any] = {"type": "http", "path": "/", "method": "POST", "headers": []}
    server = ServerSettings(ping_after_s=0.05)
    exchange = Exchange(scope, receive, cast("Any", send), server, HostsSettings())
    delayed = Delayed(events)
    encoder = Encoder(choices=1, include_usage=False, fingerprint="fp")

    async def starting() -> Delayed:
        return delayed

    await send_stream(exchange, starting(), encoder, framing=framing)
    assert delayed.closed == 1
    return written


async def test_silence_is_filled_with_pings_between_whole_events() -> None:
    written = await stream([(0, EVENTS[0]), (0, EVENTS[1]), (0.18, EVENTS[2]), (0, EVENTS[-1])])
    pings = [index for index, frame in enumerate(written) if frame == b": ping\n\n"]
    assert 2 <= len(pings) <= 3
    assert pings == list(range(pings[0], pings[0] + len(pings)))
    assert b"Hello" in written[pings[-1] + 1]
    assert written[-1] == b"data: [DONE]\n\n"


async def test_silence_is_filled_in_the_words_of_the_dialect() -> None:
    framing = Framing(b"application/json", b"\n")
    written = await stream([(0, EVENTS[0]), (0, EVENTS[1]), (0.18, EVENTS[-1])], framing)
    assert 2 <= written.count(b"\n") <= 3
    assert b": ping\n\n" not in written


async def test_a_stream_that_flows_has_no_pings() -> None:
    deltas = [(0.02, EVENTS[2])] * 8
    written = await stream([(0, EVENTS[0]), (0, EVENTS[1]), *deltas, (0, EVENTS[-1])])
    assert b": ping\n\n" not in written
