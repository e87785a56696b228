"""The realtime snippet, in a WebSocket of the kind that browsers have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.seeds.conftest import Seeds
from tests.seeds.test_other_documents import CHAT, SPEC_HOST, YOURS, root

# Node 20 has browsers' WebSocket behind a flag, and newer ones accept the flag.
FLAGS = ("--experimental-websocket", "--no-warnings")
# Behind the snippet: goes on where its comment says so, and ends.
DRIVER = """
ws.onerror = (event) => { console.error("Error", event.message); process.exit(1); };
ws.addEventListener("message", (event) => {
  const data = JSON.parse(event.data);
  console.log(JSON.stringify([data.type, data.delta ?? null]));
  if (data.type === "session.updated") {
    const content = [{ type: "input_text", text: "What is the capital of France?" }];
    const item = { type: "message", role: "user", content };
    ws.send(JSON.stringify({ type: "conversation.item.create", item }));
    ws.send(JSON.stringify({ type: "response.create" }));
  }
  if (data.type === "response.done") ws.close();
});
await new Promise((resolve) => ws.addEventListener("close", resolve));
console.log(JSON.stringify(["protocol", ws.protocol]));
"""

SDK = """
import OpenAI from "openai";
import { OpenAIRealtimeWebSocket } from "openai/MODULE";

const client = new OpenAI({
  apiKey: process.env.OPERAYDE_KEY,
  baseURL: process.env.OPERAYDE_BASE,
});
// The SDK always asks for TLS, which a proxy in front would end.
const onURL = (url) => { url.protocol = "ws:"; };
const rt = new OpenAIRealtimeWebSocket({ model: "MODEL", onURL }, client);
const content = [{ type: "input_text", text: "What is the capital of France?" }];
let text = "";
rt.on("error", (error) => { throw error; });
rt.on("session.created", () => {
  rt.send({ type: "session.update", session: SESSION });
  const item = { type: "message", role: "user", content };
  rt.send({ type: "conversation.item.create", item });
  rt.send({ type: "response.create" });
});
rt.on("DELTA", (event) => { text += event.delta; });
rt.on("DONE", (event) => { console.log(event.text === text, text.length > 0); });
rt.on("response.done", (event) => { console.log(event.response.status); rt.close(); });
await new Promise((resolve) => rt.socket.addEventListener("close", resolve));
"""


@pytest.mark.parametrize(
    ("module", "session", "kind"),
    [
        (
            "realtime/websocket",
            {"type": "realtime", "output_modalities": ["text"]},
            "response.output_text",
        ),
        ("beta/realtime/websocket", {"modalities": ["text"]}, "response.text"),
    ],
)
def test_javascript_sdk(
    seeds: Seeds, node_modules: Path, module: str, session: dict[str, Any], kind: str
) -> None:
    changes = {
        "MODULE": module,
        "MODEL": CHAT,
        "SESSION": json.dumps(session),
        "DELTA": f"{kind}.delta",
        "DONE": f"{kind}.done",
    }
    snippet = SDK
    for old, new in changes.items():
        snippet = snippet.replace(old, new)
    printed = seeds.typescript(snippet, node_modules, *FLAGS)
    assert printed.split() == ["true", "true", "completed"]


def test_javascript_websocket(seeds: Seeds, node_modules: Path) -> None:
    changes = {SPEC_HOST: root(seeds), YOURS: seeds.key, "gpt-4o-realtime": CHAT}
    snippet = seeds.text("002_realtime.js", changes) + DRIVER
    printed = seeds.typescript(snippet, node_modules, *FLAGS)
    events = [json.loads(line) for line in printed.splitlines()]
    assert [kind for kind, _ in events[:3]] == [
        "session.created",
        "session.updated",
        "conversation.item.created",
    ]
    assert "".join(text for kind, text in events if kind == "response.text.delta")
    assert [kind for kind, _ in events[-2:]] == ["response.done", "protocol"]
    assert events[-1][1] == "realtime"
