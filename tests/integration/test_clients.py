"""Clients and libraries for chats, by the members of the requests that they were seen to send.

Seen: llm 0.36, Continue CLI 1.5.47, aider 0.86.2, OpenAI Agents SDK 0.24.0 (Python); read in its
source: Open WebUI 0.12.4. Each does a round trip of a tool where it offers tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.integration.serving import Serving
from tests.integration.test_agents import MODEL, PARAMETERS, TOOL_SAID, calling, events

CHAT = "/v1/chat/completions"
USAGE = {"include_usage": True}
SAYING = {"role": "user", "content": 'Please. @@{"emit": "Hello."}@@'}
CALLING = {"role": "user", "content": calling("bash", {"command": "pwd"})}
FUNCTION = {"name": "bash", "description": "Runs.", "parameters": PARAMETERS}
STRICT = {**FUNCTION, "strict": True}


@pytest.fixture
def client(scripted_appliance: Serving) -> Iterator[httpx2.Client]:
    key = {"authorization": f"Bearer {scripted_appliance.key}"}
    with httpx2.Client(base_url=scripted_appliance.url, headers=key, timeout=120) as made:
        yield made


def said(client: httpx2.Client, body: dict[str, Any]) -> dict[str, Any]:
    """The message of the answer to a chat, put together where it is streamed."""
    if not body.get("stream"):
        reply = client.post(CHAT, json=body)
        assert reply.status_code == 200, reply.text
        message: dict[str, Any] = reply.json()["choices"][0]["message"]
        return message
    content, calls = "", list[dict[str, Any]]()
    for chunk in events(client, CHAT, {}, body):
        for choice in chunk["choices"]:
            content += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls", ()):
                if call["index"] == len(calls):
                    calls.append(call)
                else:
                    more = call["function"]["arguments"]
                    calls[call["index"]]["function"]["arguments"] += more
    return {"role": "assistant", "content": content, "tool_calls": calls}


CALLERS: dict[str, dict[str, Any]] = {
    "llm": {"stream": True, "stream_options": USAGE, "tools": [FUNCTION]},
    "Continue": {"stream": True, "stream_options": USAGE, "tools": [FUNCTION]},
    "Open WebUI": {"stream": True, "stream_options": USAGE, "tools": [FUNCTION]},
    "Agents SDK": {"tools": [STRICT], "store": False},
}


@pytest.mark.parametrize("name", CALLERS)
def test_a_chat_client_calls_its_tool(client: httpx2.Client, name: str) -> None:
    body = {"model": MODEL, **CALLERS[name]}
    body["tools"] = [{"type": "function", "function": tool} for tool in body["tools"]]
    message = said(client, {**body, "messages": [CALLING]})
    (call,) = message["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"command": "pwd"}
    # What was called comes back with what each leaves out or adds.
    function = {name: call["function"][name] for name in ("name", "arguments")}
    called = {"id": call["id"], "type": "function", "function": function}
    content = "" if name in ("Continue", "Open WebUI") else None
    result = {"role": "tool", "tool_call_id": call["id"], "content": "/home\n"}
    turns = [CALLING, {"role": "assistant", "content": content, "tool_calls": [called]}, result]
    assert said(client, {**body, "messages": turns})["content"] == f"{TOOL_SAID}/home\n"


TALKERS: dict[str, dict[str, Any]] = {
    "aider": {
        "messages": [
            {"role": "system", "content": "Act as an expert software developer."},
            {"role": "user", "content": "I have *added these files to the chat*."},
            {"role": "assistant", "content": "Ok, any changes I propose will be to those files."},
            SAYING,
        ],
        "stream": True,
        "temperature": 0,
    },
    "a title for Open WebUI": {"messages": [SAYING], "stream": False},
    "Open WebUI by an older limit": {"messages": [SAYING], "stream": True, "max_tokens": 1000},
    "Agents SDK after a handoff": {
        "messages": [
            {"content": "You are Bob.", "role": "system"},
            SAYING,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "transfer_to_bob", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "Hello."},
        ],
    },
}


@pytest.mark.parametrize("name", TALKERS)
def test_a_chat_client_is_answered(client: httpx2.Client, name: str) -> None:
    text = said(client, {"model": MODEL, **TALKERS[name]})["content"]
    assert text.removeprefix(TOOL_SAID) == "Hello."


def test_open_webui_goes_on_with_an_answer(client: httpx2.Client) -> None:
    turns = [SAYING, {"role": "assistant", "content": "Well. "}]
    more = {"continue_final_message": True, "add_generation_prompt": False, "stream": True}
    begun = said(client, {"model": MODEL, "messages": turns, **more})
    # The scripted model repeats a prompt that is no script: it has the beginning behind it.
    assert begun["content"].endswith("Well. ")


def test_the_agents_sdk_calls_its_tool_by_responses(client: httpx2.Client) -> None:
    body: dict[str, Any] = {"model": MODEL, "include": []}
    body["tools"] = [{**STRICT, "type": "function"}]
    reply = client.post("/v1/responses", json={**body, "input": [CALLING]})
    (item,) = reply.json()["output"]
    call = {name: item[name] for name in ("arguments", "call_id", "name", "type", "id", "status")}
    output = {"call_id": item["call_id"], "output": "/home", "type": "function_call_output"}
    reply = client.post("/v1/responses", json={**body, "input": [CALLING, call, output]})
    (message,) = reply.json()["output"]
    assert message["content"][0]["text"] == f"{TOOL_SAID}/home"
    # Its own message comes back as it was, and the next agent has no tools.
    turns = [CALLING, call, output, message, SAYING]
    after = {"model": MODEL, "include": [], "instructions": "You are Bob.", "tools": []}
    reply = client.post("/v1/responses", json={**after, "input": turns})
    assert reply.status_code == 200, reply.text


MISTAKES: dict[str, tuple[dict[str, str], dict[str, Any], int, str]] = {
    "wrong key": (
        {"authorization": "Bearer op_live_0000_" + "0" * 32},
        {"messages": [SAYING]},
        401,
        "Invalid API key provided.",
    ),
    "unknown model": (
        {},
        {"model": "no/such", "messages": [SAYING]},
        404,
        "The model `no/such` does not exist.",
    ),
    "too long": (
        {},
        {"messages": [{"role": "user", "content": f'@@{{"emit": "{"x" * 300_000}"}}@@'}]},
        400,
        "This model's maximum context length is 200000 tokens: the prompt has at least 3000",
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_words_that_clients_show(
    client: httpx2.Client, name: str, stream: bool
) -> None:
    headers, members, status, told = MISTAKES[name]
    reply = client.post(CHAT, json={"model": MODEL, "stream": stream, **members}, headers=headers)
    assert reply.status_code == status
    assert reply.json()["error"]["message"].startswith(told)
    if status == 401:
        # Or Claude Code tries ten times, for minutes, and shows nothing.
        assert reply.headers["x-should-retry"] == "false"


def test_a_prompt_that_is_too_long_is_told_as_each_agent_knows_it(client: httpx2.Client) -> None:
    text = f'@@{{"emit": "{"x" * 300_000}"}}@@'
    body = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": text}]}
    reply = client.post("/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"})
    assert reply.status_code == 400
    told = reply.json()["error"]["message"]
    assert re.fullmatch(r"prompt is too long: 3000\d\d tokens > 199999 maximum", told)
    reply = client.post(
        f"/v1beta/models/{MODEL}:generateContent", json={"contents": {"parts": {"text": text}}}
    )
    assert reply.status_code == 400
    assert (
        "exceeds the maximum number of tokens allowed (199999)" in reply.json()["error"]["message"]
    )
