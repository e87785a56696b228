"""Numbers that no machine word holds, written by a model into the arguments of a call."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.integration.limited import bearer
from tests.integration.scripted.repository import script
from tests.integration.serving import Serving

MODEL = "scripted/thinker"
LARGE = "123456789012345678901234567890"
ARGUMENTS = '{"n": ' + LARGE + ', "price": 1.10, "far": 1e400}'
PROMPT = script(
    emit='</think><tool_call>\n{"name": "pay", "arguments": ' + ARGUMENTS + "}\n</tool_call>"
)
SCHEMA = {"type": "object", "properties": {"n": {"type": "number"}}}
USER = [{"role": "user", "content": PROMPT}]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {
            "messages": USER,
            "tools": [{"type": "function", "function": {"name": "pay", "parameters": SCHEMA}}],
        },
    ),
    "responses": (
        "/v1/responses",
        {"input": PROMPT, "tools": [{"type": "function", "name": "pay", "parameters": SCHEMA}]},
    ),
    "messages": (
        "/v1/messages",
        {"messages": USER, "max_tokens": 900, "tools": [{"name": "pay", "input_schema": SCHEMA}]},
    ),
    "gemini": (
        f"/v1beta/models/{MODEL}",
        {
            "contents": [{"role": "user", "parts": [{"text": PROMPT}]}],
            "tools": [{"functionDeclarations": [{"name": "pay", "parameters": SCHEMA}]}],
        },
    ),
}


def post(serving: Serving, path: str, body: dict[str, Any]) -> str:
    reply = requests.post(serving.url + path, json=body, headers=bearer(serving.key), timeout=120)
    assert reply.status_code == 200, reply.text
    return reply.text


def asked(serving: Serving, dialect: str, *, stream: bool, **more: Any) -> str:
    path, body = CALLS[dialect]
    body = {**body, **more}
    if dialect == "gemini":
        verb = ":streamGenerateContent?alt=sse" if stream else ":generateContent"
        return post(serving, path + verb, body)
    return post(serving, path, {"model": MODEL, "stream": stream, **body})


@pytest.mark.parametrize("dialect", CALLS)
def test_a_whole_reply_has_each_number_as_it_was_written(
    scripted_appliance: Serving, dialect: str
) -> None:
    raw = asked(scripted_appliance, dialect, stream=False)
    json.loads(raw)
    assert LARGE in raw
    assert "1.10" in raw
    assert "1e400" in raw


def test_a_streamed_call_of_gemini_has_each_number_as_it_was_written(
    scripted_appliance: Serving,
) -> None:
    raw = asked(scripted_appliance, "gemini", stream=True)
    assert '"args":{"n":' + LARGE + ',"price":1.10,"far":1e400}' in raw


def test_a_conversation_goes_on_with_such_a_call(scripted_appliance: Serving) -> None:
    given = {"n": int(LARGE)}
    last = [{"type": "tool_result", "tool_use_id": "toolu_1", "content": script(emit="ok")}]
    call = {"type": "tool_use", "id": "toolu_1", "name": "pay", "input": given}
    messages = [
        *USER,
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": last},
    ]
    assert '"ok"' in asked(scripted_appliance, "messages", stream=False, messages=messages)
    said = script(emit="ok")
    contents = [
        {"role": "user", "parts": [{"text": "pay"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "pay", "args": given}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "pay", "response": given}}]},
        {"role": "user", "parts": [{"text": said}]},
    ]
    assert '"ok"' in asked(scripted_appliance, "gemini", stream=False, contents=contents)
