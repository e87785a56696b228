"""Every snippet of the quick start, as printed, with its two environment variables set."""

from __future__ import annotations

import json
from pathlib import Path

import requests

from tests.seeds.conftest import Seeds


def test_curl_chat(seeds: Seeds) -> None:
    answer = json.loads(seeds.shell(seeds.text("000_chat.sh")))
    assert "Operayde" in answer["choices"][0]["message"]["content"]


def test_python_chat(seeds: Seeds) -> None:
    assert "Operayde" in seeds.python(seeds.text("000_chat.py"))


def test_typescript_chat(seeds: Seeds, node_modules: Path) -> None:
    assert "Operayde" in seeds.typescript(seeds.text("000_chat.ts"), node_modules)


def test_curl_stream(seeds: Seeds) -> None:
    printed = seeds.shell(seeds.text("000_stream.sh"))
    events = printed.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).strip()
    assert {"id", "choices"} <= set(chunks[0])
    assert chunks[0]["choices"][0]["index"] == 0


def test_python_stream(seeds: Seeds) -> None:
    printed = seeds.python(seeds.text("000_stream.py"))
    assert printed.strip()
    assert "None" not in printed


def test_typescript_stream(seeds: Seeds, node_modules: Path) -> None:
    # As in the document, the stream goes on where the first TypeScript snippet began.
    beginning = "".join(seeds.text("000_chat.ts").splitlines(keepends=True)[:2])
    printed = seeds.typescript(beginning + seeds.text("000_stream.ts"), node_modules)
    assert printed.strip()
    assert "undefined" not in printed


def test_curl_embeddings(seeds: Seeds) -> None:
    numbers = json.loads(seeds.shell(seeds.text("000_embeddings.sh")))
    assert len(numbers) == 5
    assert all(isinstance(number, float) for number in numbers)


def test_python_openai(seeds: Seeds) -> None:
    assert seeds.python(seeds.text("000_openai.py")).strip()


def test_typescript_openai(seeds: Seeds, node_modules: Path) -> None:
    assert seeds.typescript(seeds.text("000_openai.ts"), node_modules).strip()


def test_errors_follow_the_printed_envelope(seeds: Seeds) -> None:
    """The table of the document, as far as it needs no policy, no limits and no fault."""
    chat = {"model": "operayde/instruct-13b", "messages": [{"role": "user", "content": "x"}]}
    cases = [
        (seeds.key, b"{", 400, "invalid_request"),
        (
            seeds.key,
            json.dumps({"model": "operayde/instruct-13b"}).encode(),
            400,
            "invalid_request",
        ),
        ("op_live_26f2_" + "0" * 32, json.dumps(chat).encode(), 401, "unauthorized"),
    ]
    for key, body, status, code in cases:
        reply = requests.post(
            f"{seeds.base}/chat/completions",
            data=body,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (status, code)
        assert {"code", "message", "type", "request_id"} <= set(error)
        assert error["request_id"].startswith("req_")
