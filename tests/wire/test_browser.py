"""A page of another origin in a real browser: what it may call, and what it may read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings import ServerSettings
from tests import programs
from tests.unit.serve.served import serving
from tests.wire.harness import KEY, bench

PATIENCE_S = 120.0
PAGE = """<!doctype html><script>
const base = "http://127.0.0.1:%(port)d/v1";
const sent = {
  "authorization": "Bearer %(key)s", "content-type": "application/json",
  "x-stainless-os": "Linux", "anthropic-version": "2023-06-01",
};
const said = [{ role: "user", content: "hi" }];
const body = JSON.stringify({ model: "acme/chat", messages: said, stream: true, max_tokens: 9 });
async function tried(name, work) {
  try { return [name, await work()]; } catch (error) { return [name, error.name]; }
}
async function streamed() {
  const reply = await fetch(`${base}/messages`, { method: "POST", headers: sent, body });
  let text = "", pieces = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let one; !(one = await pieces.read()).done; ) text += one.value;
  return [reply.status, reply.headers.get("request-id") !== null, text.includes("message_stop")];
}
async function refused() {
  const reply = await fetch(`${base}/models`, { headers: { authorization: "Bearer none" } });
  return [reply.status, (await reply.json()).error.reason];
}
async function managed() {
  return (await fetch(`${base}/keys`, { headers: sent })).status;
}
Promise.all([tried("stream", streamed), tried("error", refused), tried("keys", managed)]).then(
  (all) => fetch("/", { method: "POST", body: JSON.stringify(Object.fromEntries(all)) }));
</script>"""


@asynccontextmanager
async def page_server(told: asyncio.Future[Any]) -> AsyncIterator[tuple[int, dict[str, str]]]:
    """Serves one page, and takes what the page tells."""
    page = {"text": ""}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if not told.done():
                told.set_result(json.loads(await reader.readexactly(size)))
        content = page["text"].encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/html\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(content), content)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], page


@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "not listed"])
async def test_a_page_streams_reads_errors_and_manages_nothing(
    tmp_path: Path, *, is_listed: bool
) -> None:
    chromium = programs.program("chromium")
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    async with page_server(told) as (port, page):
        origin = f"http://127.0.0.1:{port}" if is_listed else "https://elsewhere.test"
        settings = ServerSettings(cors_origins=(origin,))
        async with (
            bench(tmp_path / "box", server=settings) as service,
            serving(service.app, settings) as served,
        ):
            page["text"] = PAGE % {"port": served.port, "key": KEY}
            browser = await asyncio.create_subprocess_exec(
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile",
                f"http://127.0.0.1:{port}/",
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                async with asyncio.timeout(PATIENCE_S):
                    result = await told
            finally:
                browser.kill()
                await browser.wait()
    if is_listed:
        assert result["stream"] == [200, True, True]
        assert result["error"] == [401, "invalid_api_key"]
    else:
        assert result["stream"] == result["error"] == "TypeError"
    assert result["keys"] == "TypeError"
