"""`/openapi.json` tells the truth: live replies have the statuses, schemas and headers it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.integration.serving import Serving

CHAT = {"model": "demo/chat", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
EMBED = {"model": "demo/embed", "input": ["one", "two"]}
SEED_NAMES = {
    "ChatRequest", "ChatMessage", "ChatResponse", "EmbeddingsRequest", "EmbeddingsResponse",
    "VirtualKey", "VirtualKeyCreate", "Model", "Error",
}  # fmt: skip
TOOL = {"name": "weather", "description": "The weather.", "parameters": {"type": "object"}}


class Described:
    """A server, and what it says of itself."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        reply = requests.get(f"{serving.url}/openapi.json", timeout=60)
        self.document: dict[str, Any] = reply.json()
        self.seen: set[tuple[str, str]] = set()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The reply's JSON, if it has any, once it was found to be as described."""
        sent = dict(headers or {})
        if key is not None:
            sent["authorization"] = f"Bearer {key or self.serving.key}"
        url = self.serving.url + path
        reply = requests.request(method, url, json=body, headers=sent, timeout=60)
        self.check(method, path, reply)
        return reply.json() if reply.content and "json" in reply.headers["content-type"] else None

    def check(self, method: str, path: str, reply: requests.Response) -> None:
        """Fails when `reply` is not what the description says."""
        template, operation = self._operation(method, path.partition("?")[0])
        self.seen.add((method, template))
        where = f"{method} {template} {reply.status_code}: {reply.text[:500]}"
        told = operation["responses"].get(str(reply.status_code))
        assert told is not None, where
        assert "x-request-id" in reply.headers, where
        if reply.status_code in {401, 429}:
            for name in told["headers"]:
                assert name.startswith("X-RateLimit") or name in reply.headers, where
        if not reply.content:
            assert "content" not in told, where
            return
        kind = reply.headers["content-type"].partition(";")[0]
        assert kind in told.get("content", {}), where
        if kind == "application/json":
            schema = told["content"][kind]["schema"]
            components = {"components": self.document["components"]}
            jsonschema.Draft202012Validator(schema | components).validate(reply.json())

    def _operation(self, method: str, path: str) -> tuple[str, Mapping[str, Any]]:
        found = [
            template
            for template, operations in self.document["paths"].items()
            if method.lower() in operations and re.fullmatch(_pattern(template), path)
        ]
        # The more is spelt out, the nearer it is.
        template = max(found, key=lambda one: len(re.sub(r"\{.*?\}", "", one)))
        return template, self.document["paths"][template][method.lower()]


def _pattern(template: str) -> str:
    return "".join(
        ".+" if part.startswith("{") else re.escape(part)
        for part in re.split(r"(\{.*?\})", template)
    )


@pytest.fixture(scope="module")
def described(appliance: Serving) -> Described:
    return Described(appliance)


def test_it_is_valid_openapi_and_names_what_clients_know(described: Described) -> None:
    OpenAPIV31SpecValidator(described.document).validate()
    assert described.document["openapi"].startswith("3.1")
    assert set(described.document["components"]["schemas"]) >= SEED_NAMES


def test_every_reply_with_a_body_has_a_schema(described: Described) -> None:
    for path, operations in described.document["paths"].items():
        for method, operation in operations.items():
            for status, told in operation["responses"].items():
                if status not in {"204", "101"}:
                    assert told.get("content"), f"{method} {path} {status}"


def test_replies_of_engines_are_as_described(described: Described) -> None:
    call = described.call
    for prefix in ("/v1", "/api/v1"):
        call("POST", f"{prefix}/chat/completions", CHAT)
        call("POST", f"{prefix}/chat/completions", {**CHAT, "stream": True})
        call("POST", f"{prefix}/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2})
        tools = [{"type": "function", "function": TOOL}]
        call(
            "POST",
            f"{prefix}/chat/completions",
            {**CHAT, "tools": tools, "tool_choice": "required", "max_tokens": 40},
        )
        call("POST", f"{prefix}/completions", {"model": "demo/chat", "prompt": "Hello", "n": 2})
        call(
            "POST",
            f"{prefix}/completions",
            {"model": "demo/chat", "prompt": [1, 2, 3], "max_tokens": 3, "logprobs": 2},
        )
        call("POST", f"{prefix}/embeddings", EMBED)
        call("POST", f"{prefix}/embeddings", {**EMBED, "encoding_format": "base64"})
        tokens = call("POST", f"{prefix}/tokenize", {"model": "demo/chat", "prompt": "Hello"})
        call(
            "POST",
            f"{prefix}/detokenize",
            {"model": "demo/chat", "tokens": tokens["tokens"]},
        )
        call("GET", f"{prefix}/models")
        call("GET", f"{prefix}/models/demo%2Fchat")
        call("GET", f"{prefix}/models/demo/chat")


def test_responses_are_as_described(described: Described) -> None:
    call = described.call
    made = call("POST", "/v1/responses", {"model": "demo/chat", "input": "Hello!"})
    one = f"/v1/responses/{made['id']}"
    call("GET", one)
    call("GET", f"{one}?stream=true")
    call("GET", f"{one}/input_items")
    call("POST", f"{one}/cancel")
    call("POST", "/v1/responses/input_tokens", {"model": "demo/chat", "input": "Hello!"})
    call("DELETE", one)
    call("GET", one)
    call("POST", "/v1/responses", {"model": "demo/chat", "input": "Hello!", "stream": True})


def test_gemini_is_as_described(described: Described) -> None:
    call = described.call
    contents = {"contents": [{"parts": [{"text": "Hello!"}]}]}
    for prefix in ("/v1beta", "/api/v1beta"):
        model = f"{prefix}/models/demo/chat"
        call("POST", f"{model}:generateContent", contents)
        call("POST", f"{model}:streamGenerateContent", contents)
        call("POST", f"{model}:streamGenerateContent?alt=sse", contents)
        call("POST", f"{model}:countTokens", contents)
        embed = {"content": {"parts": [{"text": "one"}]}}
        call("POST", f"{prefix}/models/demo/embed:embedContent", embed)
        batch = {"requests": [{"model": "models/demo/embed", **embed}]}
        call("POST", f"{prefix}/models/demo/embed:batchEmbedContents", batch)
        call("GET", f"{prefix}/models")
        call("GET", model)
        call("POST", f"{prefix}/models/nobody:generateContent", contents)
        call("POST", f"{model}:generateContent", {"contents": 7})
        call("GET", f"{prefix}/models", key=None)


def test_anthropic_is_as_described(described: Described) -> None:
    call = described.call
    asked = {**CHAT, "max_tokens": 8}
    call("POST", "/v1/messages", asked)
    call("POST", "/v1/messages", {**asked, "stream": True})
    call(
        "POST",
        "/v1/messages",
        {**asked, "tools": [{"name": "weather", "input_schema": {"type": "object"}}]},
    )
    call("POST", "/v1/messages/count_tokens", CHAT)
    call("POST", "/v1/messages", {"model": "demo/chat", "messages": 7, "max_tokens": 1})
    call("POST", "/v1/messages", asked, key=None)
    call("GET", "/v1/models", headers={"anthropic-version": "2023-06-01"})
    call("GET", "/v1/models/demo/chat", headers={"anthropic-version": "2023-06-01"})


def test_management_is_as_described(described: Described) -> None:
    call = described.call
    policy = call("POST", "/v1/policies", {"name": "described"})
    call("GET", "/v1/policies")
    one = f"/v1/policies/{policy['id']}"
    call("GET", one)
    call("PATCH", one, {"document": {"models": ["*"]}})
    call("POST", "/v1/policies/test", {"inputs": []})
    call("POST", f"{one}/test", {"inputs": []})
    call("POST", f"{one}/replay", {})
    call("GET", f"{one}/decisions")
    key = call("POST", "/v1/keys", {"label": "described", "policy_id": policy["id"]})
    call("GET", "/v1/keys")
    mine = f"/v1/keys/{key['id']}"
    call("GET", mine)
    call("PATCH", mine, {"label": "described again", "rpm_limit": 1})
    call("POST", f"{mine}/explain", {"request": CHAT})
    call("POST", "/v1/chat/completions", CHAT, key=key["secret"])
    call("POST", "/v1/chat/completions", CHAT, key=key["secret"])
    call("GET", "/v1/keys", key=key["secret"])
    call("POST", f"{mine}/rotate", {"overlap_s": 5})
    call("DELETE", mine)
    call("GET", "/v1/keys/key_nobody")
    call("POST", "/v1/keys", {"label": "x"})
    call("GET", "/v1/usage?group_by=key,model")
    call("GET", "/v1/usage?format=csv")
    call("GET", "/v1/audit?limit=5")


def test_errors_and_health_are_as_described(described: Described) -> None:
    call = described.call
    for body, key in (
        ({"model": "demo/chat"}, ""),
        ({**CHAT, "model": "nobody/knows"}, ""),
        ({**CHAT, "max_tokens": 100_000}, ""),
        (CHAT, None),
        (CHAT, "op_live_0000_00000000000000000000000000000000"),
    ):
        for path in ("/v1/chat/completions", "/api/v1/chat/completions"):
            call("POST", path, body, key=key)
    call("GET", "/v1/models/nobody")
    call("GET", "/v1/keys", key=None)
    for path in ("/health", "/v1/health", "/health/live", "/health/ready"):
        call("GET", path, key=None)
        call("GET", path)
