"""Integers of more than 64 bits in what a response tells again."""

from __future__ import annotations

from tests.unit.wire.openai.responses.test_routes import ASKED, events, found, made
from tests.wire.harness import Bench


async def test_integers_of_any_size_in_a_tool_come_back_as_they_are(service: Bench) -> None:
    default = {"type": "integer", "default": 2**70 + 1}
    parameters = {"type": "object", "properties": {"a": default}}
    tool = {"type": "function", "name": "f", "parameters": parameters}
    first = await made(service, tools=[tool])
    assert first["tools"][0]["parameters"] == parameters
    assert await found(service, first["id"]) == first
    reply = await service.post("/v1/responses", {**ASKED, "tools": [tool], "stream": True})
    assert events(reply.text)[-1]["response"]["tools"] == first["tools"]


async def test_integers_of_any_size_in_an_action_are_listed(service: Bench) -> None:
    action = {"type": "exec", "command": ["ls"], "timeout_ms": 2**70 + 1}
    call = {"type": "local_shell_call", "call_id": "c", "action": action}
    output = {"type": "local_shell_call_output", "call_id": "c", "output": "a"}
    first = await made(service, input=[call, output])
    page = (await service.get(f"/v1/responses/{first['id']}/input_items")).json()
    assert page["data"][1]["action"] == action
