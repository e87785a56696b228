"""Whole sessions as they stand in golden files: one conversation in both dialects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchestrator.core.errors import UpstreamFailed
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartStarted,
    Usage,
)
from orchestrator.core.messages import TextPart, ToolCallPart
from tests.unit.wire.openai.realtime.client import SocketClient
from tests.wire.golden import check_json
from tests.wire.harness import Bench, answer, bench

_ID = re.compile(rb'"((?:event|item|resp|sess|conv|call)_)[0-9A-Z]{26}"')
_EXPIRES = re.compile(rb'"expires_at":\d+')
GA = {
    "type": "realtime",
    "output_modalities": ["text"],
    "instructions": "Be brief.",
    "max_output_tokens": 50,
    "tools": [{"type": "function", "name": "clock", "parameters": {"type": "object"}}],
}
BETA = {
    "modalities": ["text"],
    "instructions": "Be brief.",
    "max_response_output_tokens": 50,
    "tools": [{"type": "function", "name": "clock", "parameters": {"type": "object"}}],
}
CALL: tuple[GenerationEvent, ...] = (
    GenerationStarted("gen-2", "acme/chat", 1_700_000_000, 20),
    PartStarted(0, "text"),
    PartDelta(0, "text", "Let me see."),
    PartFinished(0, TextPart("Let me see.")),
    PartStarted(0, "tool_call", "call_7", "clock"),
    PartDelta(0, "tool_call", '{"zone":'),
    PartDelta(0, "tool_call", '"UTC"}'),
    PartFinished(0, ToolCallPart("call_7", "clock", '{"zone":"UTC"}')),
    ChoiceFinished(0, "tool_calls"),
    GenerationFinished(Usage(20, 9, 12)),
)
CUT: tuple[GenerationEvent, ...] = (
    GenerationStarted("gen-3", "acme/chat", 1_700_000_000, 20),
    PartStarted(0, "text"),
    PartDelta(0, "text", "It is"),
    PartFinished(0, TextPart("It is")),
    ChoiceFinished(0, "length"),
    GenerationFinished(Usage(20, 2)),
)


class Transcript:
    """What is said on one socket, in both directions."""

    def __init__(self, client: SocketClient) -> None:
        self.lines: list[dict[str, Any]] = []
        self._client = client

    async def ask(self, event: dict[str, Any], until: str) -> None:
        self.lines.append({"client": event})
        self._client.send(event)
        await self.hear(until)

    async def hear(self, until: str) -> None:
        self.lines += [{"server": event} for event in await self._client.until(until)]

    def plain(self) -> Any:
        """Its lines with ids by the order in which they first appear."""
        seen: dict[bytes, bytes] = {}

        def numbered(match: re.Match[bytes]) -> bytes:
            return seen.setdefault(match[0], b'"%b%d"' % (match[1], len(seen)))

        text = _EXPIRES.sub(b'"expires_at":0', orjson.dumps(self.lines))
        return orjson.loads(_ID.sub(numbered, text))


async def conversed(service: Bench, name: str, update: dict[str, Any]) -> Transcript:
    """A conversation with a call, an answer, one beside it, a failure and an error."""
    beta = [(b"openai-beta", b"realtime=v1")] if name == "beta" else []
    client = SocketClient(service.app, headers=beta)
    assert (await client.message())["type"] == "websocket.accept"
    said = Transcript(client)
    created = "conversation.item.created" if name == "beta" else "conversation.item.done"
    await said.hear("conversation.created" if beta else "session.created")
    await said.ask({"type": "session.update", "session": update}, "session.updated")
    content = [{"type": "input_text", "text": "What time is it?"}]
    item = {"type": "message", "role": "user", "id": "msg_1", "content": content}
    await said.ask({"type": "conversation.item.create", "item": item}, created)
    service.backend.events = CALL
    await said.ask({"type": "response.create"}, "rate_limits.updated")
    output = {"type": "function_call_output", "call_id": "call_7", "output": "12:00"}
    await said.ask({"type": "conversation.item.create", "item": output}, created)
    service.backend.events = answer("It is", " noon.")
    await said.ask({"type": "response.create"}, "rate_limits.updated")
    service.backend.events = CUT
    beside = {"conversation": "none", "input": [item], "metadata": {"topic": "time"}}
    await said.ask({"type": "response.create", "response": beside}, "rate_limits.updated")
    service.backend.events, service.backend.error = CUT[:3], UpstreamFailed("The engine failed.")
    await said.ask({"type": "response.create"}, "rate_limits.updated")
    missing = {"type": "conversation.item.delete", "item_id": "msg_9", "event_id": "evt_1"}
    await said.ask(missing, "error")
    await client.leave()
    return said


@pytest.mark.parametrize(("name", "update"), [("ga", GA), ("beta", BETA)])
async def test_a_session(tmp_path: Path, name: str, update: dict[str, Any]) -> None:
    async with bench(tmp_path) as service:
        said = await conversed(service, name, update)
    check_json(f"realtime/{name}.json", said.plain())
