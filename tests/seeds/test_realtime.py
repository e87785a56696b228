"""The realtime snippet, in a WebSocket of the kind that browsers have."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Seeds
from .test_other_documents import CHAT, SPEC_HOST, YOURS, root

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


def test_javascript_websocket(seeds: Seeds, node_modules: Path) -> None:
    changes = {SPEC_HOST: root(seeds), YOURS: seeds.key, "gpt-4o-realtime": CHAT}
    snippet = seeds.text("002_realtime.js", changes) + DRIVER
    # Node 20 has the class behind a flag, newer ones accept the flag.
    printed = seeds.typescript(snippet, node_modules, "--experimental-websocket", "--no-warnings")
    events = [json.loads(line) for line in printed.splitlines()]
    assert [kind for kind, _ in events[:3]] == [
        "session.created",
        "session.updated",
        "conversation.item.created",
    ]
    assert "".join(text for kind, text in events if kind == "response.text.delta")
    assert [kind for kind, _ in events[-2:]] == ["response.done", "protocol"]
    assert events[-1][1] == "realtime"
