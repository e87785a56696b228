"""The chat, embeddings and models snippets of the other documents.

Their hosts, keys and models are made up, so these three, and nothing else, are exchanged.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.seeds.conftest import Seeds

CHAT, EMBED = "operayde/instruct-13b", "operayde/embed-bge"
SPEC_HOST = "https://your-api-host.com"
PLATFORM_HOST = "https://your-domain.com"
BUDDY_HOST = "openllmbuddy-proxy.botbuddytech.workers.dev"
BUDDY_KEY = "ob_sk_000000000000000000000000000000000000000000000001"
YOURS = "YOUR_API_KEY"


def root(seeds: Seeds) -> str:
    return seeds.base.removesuffix("/v1")


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("002_chat.sh", SPEC_HOST),
        ("003_quick_start.sh", PLATFORM_HOST),
        ("003_chat.sh", PLATFORM_HOST),
    ],
)
def test_curl_chat(seeds: Seeds, name: str, host: str) -> None:
    changes = {host: root(seeds), YOURS: seeds.key, "gpt-4o": CHAT}
    answer = json.loads(seeds.shell(seeds.text(name, changes)))
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert isinstance(answer["created"], int)
    assert answer["model"] == CHAT
    choice = answer["choices"][0]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    usage = answer["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


def test_curl_chat_of_the_proxy(seeds: Seeds) -> None:
    changes = {BUDDY_HOST: root(seeds), BUDDY_KEY: seeds.key, "gemma4:26b": CHAT}
    answer = json.loads(seeds.shell(seeds.text("004_chat.sh", changes)))
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["total_tokens"]


def test_curl_gemini(seeds: Seeds) -> None:
    changes = {PLATFORM_HOST: root(seeds), YOURS: seeds.key, "gemini-2.5-pro": CHAT}
    answer = json.loads(seeds.shell(seeds.text("003_gemini.sh", changes)))
    [candidate] = answer["candidates"]
    assert candidate["content"]["parts"][0]["text"]
    assert candidate["content"]["role"] == "model"
    assert candidate["finishReason"] == "STOP"
    usage = answer["usageMetadata"]
    counts = usage["promptTokenCount"] + usage["candidatesTokenCount"]
    assert counts == usage["totalTokenCount"]


@pytest.mark.parametrize(
    ("name", "host"), [("002_openai.py", SPEC_HOST), ("003_openai.py", PLATFORM_HOST)]
)
def test_python_openai(seeds: Seeds, name: str, host: str) -> None:
    changes = {host: root(seeds), YOURS: seeds.key, "gpt-4o": CHAT}
    assert seeds.python(seeds.text(name, changes)).strip()


def test_javascript_openai(seeds: Seeds, node_modules: Path) -> None:
    changes = {PLATFORM_HOST: root(seeds), YOURS: seeds.key, "gpt-4o": CHAT}
    printed = seeds.typescript(seeds.text("003_openai.js", changes), node_modules)
    assert printed.strip()


def test_curl_embeddings(seeds: Seeds) -> None:
    changes = {SPEC_HOST: root(seeds), YOURS: seeds.key, "text-embedding-3-small": EMBED}
    answer = json.loads(seeds.shell(seeds.text("002_embeddings.sh", changes)))
    assert answer["object"] == "list"
    assert (answer["data"][0]["object"], answer["data"][0]["index"]) == ("embedding", 0)
    assert all(isinstance(number, float) for number in answer["data"][0]["embedding"])
    assert answer["model"] == EMBED
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("name", "host"), [("002_models.sh", SPEC_HOST), ("003_models.sh", PLATFORM_HOST)]
)
def test_curl_models(seeds: Seeds, name: str, host: str) -> None:
    changes = {host: root(seeds), YOURS: seeds.key}
    answer = json.loads(seeds.shell(seeds.text(name, changes)))
    assert answer["object"] == "list"
    by_id = {model["id"]: model for model in answer["data"]}
    assert {CHAT, EMBED} <= set(by_id)
    assert by_id[CHAT]["object"] == "model"
    assert isinstance(by_id[CHAT]["created"], int)
    assert by_id[CHAT]["owned_by"]


@pytest.mark.parametrize(
    ("name", "model"),
    [("001_chat.json", "operayde/llama-3.1-70b"), ("004_chat.json", "gemma4:26b")],
)
def test_printed_bodies_are_accepted(seeds: Seeds, name: str, model: str) -> None:
    body = json.dumps(json.loads(seeds.text(name, {model: CHAT})))
    command = (
        'curl -s "$OPERAYDE_BASE/chat/completions" -H "Authorization: Bearer $OPERAYDE_KEY" '
        f"-d '{body}'"
    )
    assert json.loads(seeds.shell(command))["choices"][0]["message"]["content"]
