"""Coding agents, by the requests that they were seen to send: each does a round trip of a tool.

Seen: Codex CLI 0.171, Claude Code 2.1.197, Gemini CLI 0.61, opencode 1.18.33. The members are
theirs; the texts are stand-ins of the same shape. The model refuses late system messages and reads
arguments as objects, as the templates of its day do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.integration.scripted.repository import AGENT
from tests.integration.serving import Serving

MODEL = f"scripted/{AGENT}"
SYSTEM = "You help with software. " * 400
"""About as long as the shortest of their system prompts."""
PARAMETERS: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"command": {"type": "string", "description": "The command to execute"}},
    "required": ["command"],
    "additionalProperties": False,
}
TOOL_SAID = "The tool said: "


def calling(name: str, arguments: dict[str, Any]) -> str:
    """What a user says to have the model call a tool."""
    call = json.dumps({"name": name, "arguments": arguments})
    script = json.dumps({"emit": f"<tool_call>\n{call}\n</tool_call>"})
    return f"Please. @@{script}@@"


@pytest.fixture
def client(scripted_appliance: Serving) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=scripted_appliance.url, timeout=120) as made:
        yield made


def events(client: httpx2.Client, path: str, key: dict[str, str], body: Any) -> list[Any]:
    """The documents of a stream of server-sent events."""
    reply = client.post(path, json=body, headers=key)
    assert reply.status_code == 200, reply.text
    lines = [line for line in reply.text.split("\n") if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def codex(*items: dict[str, Any]) -> dict[str, Any]:
    """A turn of Codex CLI's."""

    def said(role: str, *texts: str) -> dict[str, Any]:
        content = [{"type": "input_text", "text": text} for text in texts]
        return {"type": "message", "id": f"msg_{role}-1", "role": role, "content": content}

    function = {"type": "function", "strict": False, "description": "d", "parameters": PARAMETERS}
    return {
        "model": MODEL,
        "stream": True,
        "input": [
            said("developer", SYSTEM),
            said("developer", "<skills_instructions>\n</skills_instructions>", "<permissions>"),
            said("user", "<environment_context>\n</environment_context>"),
            *items,
        ],
        "tools": [
            {**function, "name": "exec_command"},
            {
                "type": "namespace",
                "name": "multi_agent_v1",
                "description": "Agents that help.",
                "tools": [{**function, "name": "close_agent"}, {**function, "name": "send_input"}],
            },
            {
                "type": "custom",
                "name": "apply_patch",
                "description": "Changes files.",
                "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/s"},
            },
            {"type": "web_search", "external_web_access": True},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a2",
        "client_metadata": {"session_id": "01a2", "x-codex-window-id": "01a2:0"},
    }


@pytest.mark.parametrize(
    ("called", "arguments", "told", "result"),
    [
        (
            "exec_command",
            {"command": "echo 42"},
            {
                "type": "function_call",
                "name": "exec_command",
                "arguments": '{"command": "echo 42"}',
            },
            "function_call_output",
        ),
        (
            "multi_agent_v1__close_agent",
            {},
            {
                "type": "function_call",
                "namespace": "multi_agent_v1",
                "name": "close_agent",
                "arguments": "{}",
            },
            "function_call_output",
        ),
        (
            "apply_patch",
            {"input": '*** Begin Patch\n+"é"\n'},
            {
                "type": "custom_tool_call",
                "name": "apply_patch",
                "input": '*** Begin Patch\n+"é"\n',
            },
            "custom_tool_call_output",
        ),
    ],
)
def test_codex_calls_its_tools(
    client: httpx2.Client,
    scripted_appliance: Serving,
    called: str,
    arguments: dict[str, Any],
    told: dict[str, Any],
    result: str,
) -> None:
    key = {"authorization": f"Bearer {scripted_appliance.key}", "originator": "codex_exec"}
    asked = {"type": "message", "role": "user", "id": "msg_1"}
    asked["content"] = [{"type": "input_text", "text": calling(called, arguments)}]  # type: ignore[assignment]  # JSON
    reply = client.post("/v1/responses", json=codex(asked), headers=key)
    assert reply.headers["x-op-warning"] == "tools left out: web_search"
    assert reply.text.endswith("data: [DONE]\n\n")
    *_, done, last = events(client, "/v1/responses", key, codex(asked))
    assert (done["type"], last["type"]) == ("response.output_item.done", "response.completed")
    item = done["item"]
    assert {name: item[name] for name in told} == told
    output = {"type": result, "call_id": item["call_id"], "output": "Output:\n42\n"}
    *_, last = events(client, "/v1/responses", key, codex(asked, item, output))
    (message,) = last["response"]["output"]
    assert message["content"][0]["text"] == f"{TOOL_SAID}Output:\n42\n"


def claude_code(*turns: dict[str, Any]) -> dict[str, Any]:
    """A turn of Claude Code's."""
    cached = {"type": "ephemeral"}
    billing = "x-anthropic-billing-header: cc_version=2.1.197.0f9; cc_entrypoint=sdk-cli;"
    return {
        "model": MODEL,
        "messages": [*turns],
        "system": [
            {"type": "text", "text": billing},
            {"type": "text", "text": "You are an agent.", "cache_control": cached},
            {"type": "text", "text": SYSTEM, "cache_control": cached},
        ],
        "tools": [
            {"name": "Bash", "description": "Runs commands.", "input_schema": PARAMETERS},
            {"name": "Read", "description": "Reads files.", "input_schema": PARAMETERS},
        ],
        "metadata": {"user_id": '{"device_id":"d","account_uuid":"","session_id":"s"}'},
        # More than the room beside a long prompt.
        "max_tokens": 250_000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
    }


def test_claude_code_calls_its_tools(client: httpx2.Client, scripted_appliance: Serving) -> None:
    key = {"x-api-key": scripted_appliance.key, "anthropic-version": "2023-06-01"}
    path = "/v1/messages?beta=true"
    user = {
        "role": "user",
        "content": [
            {"type": "text", "text": "<system-reminder>\nToday.\n</system-reminder>"},
            {"type": "text", "text": calling("Bash", {"command": "echo 42"})},
        ],
    }
    agents = {"role": "system", "content": "Available agent types."}
    told = events(client, path, key, claude_code(user, agents))
    (block,) = [one["content_block"] for one in told if one["type"] == "content_block_start"]
    assert (block["type"], block["name"]) == ("tool_use", "Bash")
    written = "".join(
        one["delta"]["partial_json"] for one in told if one["type"] == "content_block_delta"
    )
    call = {"type": "tool_use", "id": block["id"], "name": "Bash", "input": json.loads(written)}
    assert call["input"] == {"command": "echo 42"}
    result = {
        "type": "tool_result",
        "tool_use_id": block["id"],
        "is_error": False,
        "content": [
            {"type": "text", "text": "42 "},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}},
        ],
    }
    turns: list[dict[str, Any]] = [user, agents, {"role": "assistant", "content": [call]}]
    turns.append({"role": "user", "content": [result]})
    told = events(client, path, key, claude_code(*turns))
    text = "".join(one["delta"]["text"] for one in told if one["type"] == "content_block_delta")
    assert text == f"{TOOL_SAID}42 [image left out: this model reads text only]"


def gemini_cli(*contents: dict[str, Any]) -> dict[str, Any]:
    """A turn of Gemini CLI's."""
    declared = {"name": "list_directory", "description": "Lists.", "parametersJsonSchema": {}}
    declared["parametersJsonSchema"] = {"type": "object", "properties": {"path": {}}}
    return {
        "contents": [*contents],
        "systemInstruction": {"parts": [{"text": SYSTEM}], "role": "user"},
        "tools": [{"functionDeclarations": [declared]}],
        "generationConfig": {
            "temperature": 1,
            "topP": 0.95,
            "topK": 64,
            "thinkingConfig": {"includeThoughts": True},
        },
    }


def test_gemini_cli_calls_its_tools(client: httpx2.Client, scripted_appliance: Serving) -> None:
    key = {"x-goog-api-key": scripted_appliance.key, "x-goog-api-client": "google-genai-sdk/1"}
    path = f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"
    texts = ["<session_context>\n</session_context>", calling("list_directory", {"path": "."})]
    user = {"role": "user", "parts": [{"text": text} for text in texts]}
    (call,) = [
        part["functionCall"]
        for chunk in events(client, path, key, gemini_cli(user))
        for part in chunk["candidates"][0].get("content", {}).get("parts", ())
        if "functionCall" in part
    ]
    assert (call["name"], call["args"]) == ("list_directory", {"path": "."})
    model = {"functionCall": call, "thoughtSignature": "skip_thought_signature_validator"}
    response = {"name": call["name"], "id": call["id"], "response": {"output": "a.txt"}}
    parts = [{"functionResponse": response}, {"inlineData": {"mimeType": "image/png", "data": ""}}]
    turns = [user, {"role": "model", "parts": [model]}, {"role": "user", "parts": parts}]
    told = events(client, path, key, gemini_cli(*turns))
    text = "".join(
        part["text"]
        for chunk in told
        for part in chunk["candidates"][0].get("content", {}).get("parts", ())
    )
    assert text == TOOL_SAID + '{"output":"a.txt"}'


def opencode(*messages: dict[str, Any]) -> dict[str, Any]:
    """A turn of opencode's, by the AI SDK."""
    return {
        "model": MODEL,
        "max_tokens": 32_000,
        "messages": [{"role": "system", "content": SYSTEM}, *messages],
        "tools": [
            {
                "type": "function",
                "function": {"name": "bash", "description": "Runs.", "parameters": PARAMETERS},
            }
        ],
        "tool_choice": "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("arguments", ['{"command":"pwd"}', ""])
def test_opencode_calls_its_tools(
    client: httpx2.Client, scripted_appliance: Serving, arguments: str
) -> None:
    key = {"authorization": f"Bearer {scripted_appliance.key}", "x-session-affinity": "ses_1"}
    path = "/v1/chat/completions"
    user = {"role": "user", "content": calling("bash", {"command": "pwd"})}
    deltas = [
        call
        for chunk in events(client, path, key, opencode(user))
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert deltas[0]["function"]["name"] == "bash"
    written = "".join(delta["function"]["arguments"] for delta in deltas)
    assert json.loads(written) == {"command": "pwd"}
    # Some clients send no text where there were no arguments.
    function = {"name": "bash", "arguments": arguments}
    call = {"id": deltas[0]["id"], "type": "function", "function": function}
    turns: list[dict[str, Any]] = [user, {"role": "assistant", "content": "", "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": deltas[0]["id"], "content": "/work\n"})
    told = events(client, path, key, opencode(*turns))
    text = "".join(
        choice["delta"].get("content") or "" for chunk in told for choice in chunk["choices"]
    )
    assert text == f"{TOOL_SAID}/work\n"
    assert told[-1]["usage"]["completion_tokens"] == len(text)


@pytest.mark.parametrize("streams", [False, True])
def test_a_chat_calls_a_custom_tool(
    client: httpx2.Client, scripted_appliance: Serving, streams: bool
) -> None:
    key = {"authorization": f"Bearer {scripted_appliance.key}"}
    path = "/v1/chat/completions"
    patch = '*** Begin Patch\n+"é"\n'
    user = {"role": "user", "content": calling("apply_patch", {"input": patch})}
    custom = {"name": "apply_patch", "description": "Changes files.", "format": {"type": "text"}}
    body = {"model": MODEL, "tools": [{"type": "custom", "custom": custom}]}
    if streams:
        first, *rest = [
            call
            for chunk in events(client, path, key, {**body, "messages": [user], "stream": True})
            for choice in chunk["choices"]
            for call in choice["delta"].get("tool_calls", ())
        ]
        pieces = "".join(piece["custom"]["input"] for piece in rest)
        call = {"id": first["id"], "type": first["type"], "custom": first["custom"]}
        call["custom"]["input"] += pieces
    else:
        reply = client.post(path, json={**body, "messages": [user]}, headers=key)
        (choice,) = reply.json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["custom"]) == ("custom", {"name": "apply_patch", "input": patch})
    turns = [user, {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": call["id"], "content": "Done."})
    reply = client.post(path, json={**body, "messages": turns}, headers=key)
    assert reply.json()["choices"][0]["message"]["content"] == f"{TOOL_SAID}Done."


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": MODEL, "messages": []}),
    "responses": ("/v1/responses", {"model": MODEL, "input": []}),
    "anthropic": ("/v1/messages", {"model": MODEL, "max_tokens": 9, "messages": []}),
    "gemini": (f"/v1beta/models/{MODEL}:generateContent", {"contents": []}),
}
"""The path and an empty request of each dialect."""


def refused(serving: Serving, client: httpx2.Client, dialect: str, **members: Any) -> str:
    """The message of the 400 that a request of the dialect with `members` gets."""
    path, body = BODIES[dialect]
    key = {"authorization": f"Bearer {serving.key}"}
    reply = client.post(path, json={**body, **members}, headers=key)
    assert reply.status_code == 400, reply.text
    message: str = reply.json()["error"]["message"]
    return message


IMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "chat": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        '`messages[0].content[0]` is of type "image_url"',
    ),
    "responses": (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        '`input[0].content[0]` is of type "input_image"',
    ),
    "anthropic": (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        '`messages[0].content[0]` is of type "image"',
    ),
    "gemini": (
        {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": ""}}]}]},
        '`contents[0].parts[0]` is of type "inlineData"',
    ),
}


@pytest.mark.parametrize("dialect", IMAGES)
def test_a_picture_of_the_user_is_refused_by_place_and_model(
    client: httpx2.Client, scripted_appliance: Serving, dialect: str
) -> None:
    members, told = IMAGES[dialect]
    message = refused(scripted_appliance, client, dialect, **members)
    assert message == f"{told}; the model `{MODEL}` reads text only."


FORMATS: dict[str, tuple[dict[str, Any], str]] = {
    "chat": (
        {
            "messages": [{"role": "user", "content": "x"}],
            "response_format": {"type": "json_object"},
        },
        "response_format",
    ),
    "responses": ({"input": "x", "text": {"format": {"type": "json_object"}}}, "text.format"),
    "anthropic": (
        {
            "messages": [{"role": "user", "content": "x"}],
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        },
        "output_config.format",
    ),
    "gemini": (
        {
            "contents": {"parts": {"text": "x"}},
            "generationConfig": {"responseMimeType": "application/json"},
        },
        "generationConfig.responseSchema",
    ),
}


@pytest.mark.parametrize("dialect", FORMATS)
def test_what_an_engine_lacks_is_named_as_the_dialect_has_it(
    client: httpx2.Client, scripted_appliance: Serving, dialect: str
) -> None:
    members, named = FORMATS[dialect]
    message = refused(scripted_appliance, client, dialect, **members)
    assert message.startswith(f"`{named}` needs guided decoding")
