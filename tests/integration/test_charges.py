"""What a call costs whose engine fails, dies or is left: what its client could have seen."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from websockets.asyncio.client import connect

from tests.integration.limited import MODEL, bearer, new_key
from tests.integration.scripted.repository import ScriptedRepository, script, write_repository
from tests.integration.serving import Serving, run_command, wait_until

TIMEOUT_S = 120
MARK = "~"
"""One token of the answer. Nothing else on the wire has it."""
_NUMBERS = count(1)


class Charge(NamedTuple):
    """A record of the books. `wasted` tokens are charged to no caller."""

    outcome: str
    prompt: int
    completion: int
    wasted: int


@dataclass
class Call:
    """One call in one dialect, and what its client saw of the answer."""

    dialect: str
    stream: bool
    prompt: str
    request_id: str = field(default_factory=lambda: f"charge-{next(_NUMBERS)}-x")
    status: int = 0
    seen: int = 0

    def __str__(self) -> str:
        return f"{self.dialect} {'streamed' if self.stream else 'whole'}"


@dataclass(frozen=True)
class Box:
    """An appliance with a scripted model, and clients of it."""

    serving: Serving
    repository: ScriptedRepository

    async def make(self, call: Call, key: str) -> None:
        """Makes `call` to its end."""
        headers = {**bearer(key), "x-request-id": call.request_id}
        if call.dialect == "realtime":
            await self._speak(call, headers)
            return
        async with httpx2.AsyncClient(
            base_url=self.serving.url, headers=headers, timeout=TIMEOUT_S
        ) as client:
            path, body = _request(call)
            async with client.stream("POST", path, json=body) as reply:
                call.status = reply.status_code
                raw = ""
                async for piece in reply.aiter_text():
                    raw += piece
                    call.seen = _seen(call, raw)
            if call.dialect == "background":
                await self._follow(call, client, json.loads(raw)["id"])

    async def _follow(self, call: Call, client: httpx2.AsyncClient, response_id: str) -> None:
        async with client.stream("GET", f"/v1/responses/{response_id}?stream=true") as reply:
            raw = (await reply.aread()).decode()
        call.seen = _seen(call, raw)

    async def _speak(self, call: Call, headers: dict[str, str]) -> None:
        address = f"ws://127.0.0.1:{self.serving.port}/v1/realtime?model={MODEL}"
        content = [{"type": "input_text", "text": call.prompt}]
        item = {"type": "message", "role": "user", "content": content}
        asked = {"conversation": "none", "input": [item]}
        async with connect(address, additional_headers=headers, proxy=None) as socket:
            await socket.send(json.dumps({"type": "response.create", "response": asked}))
            async with asyncio.timeout(TIMEOUT_S):
                while (event := json.loads(await socket.recv()))["type"] != "response.done":
                    if event["type"] == "response.output_text.delta":
                        call.seen += event["delta"].count(MARK)

    async def charge(self, call: Call) -> Charge:
        """What the books have of it in the end."""
        read = partial(self._charges, call.request_id)
        await asyncio.to_thread(wait_until, lambda: len(read()) > 0, 30, f"{call} is recorded")
        (found,) = read()
        return found

    def _charges(self, request_id: str) -> list[Charge]:
        path = self.serving.data_dir / "orchestrator.db"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            rows = database.execute(
                "SELECT outcome, prompt_tokens, completion_tokens, wasted_tokens"
                " FROM usage_record WHERE request_id IN (?, ? || '-1')",
                (request_id, request_id),
            )
            return [Charge(*row) for row in rows]

    def used(self, key_id: str) -> int:
        """Tokens of the day that the key has used."""
        path = self.serving.data_dir / "orchestrator.db"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            rows = database.execute("SELECT sum(used) FROM token_day WHERE scope_id = ?", (key_id,))
            return rows.fetchone()[0] or 0

    def made(self, call: Call) -> int:
        """Tokens that the engine made for it."""
        return sum(one.get("tokens", 0) for one in self.repository.events(call.request_id))


def _request(call: Call) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": call.prompt}]
    body: dict[str, Any] = {"model": MODEL, "stream": call.stream}
    match call.dialect:
        case "chat":
            return "/v1/chat/completions", {**body, "messages": messages}
        case "completions":
            return "/v1/completions", {**body, "prompt": call.prompt, "max_tokens": 2000}
        case "messages":
            return "/v1/messages", {**body, "messages": messages, "max_tokens": 2000}
        case "responses":
            return "/v1/responses", {**body, "input": call.prompt, "store": False}
        case "background":
            return "/v1/responses", {"model": MODEL, "input": call.prompt, "background": True}
        case "gemini":
            verb = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
            contents = [{"parts": [{"text": call.prompt}]}]
            return f"/v1beta/models/{MODEL}:{verb}", {"contents": contents}
        case other:
            raise AssertionError(other)


def _seen(call: Call, raw: str) -> int:
    """Tokens of the answer in the deltas of a stream, or in a whole reply."""
    if call.dialect in ("responses", "background") and "data: " in raw:
        lines = [line for line in raw.splitlines() if "output_text.delta" in line]
        return sum(line.count(MARK) for line in lines)
    return raw.count(MARK)


KINDS = [
    *((dialect, stream) for dialect in ("chat", "completions", "messages", "responses", "gemini")
      for stream in (True, False)),
    ("background", True),
    ("realtime", True),
]  # fmt: skip


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("charges")
    repository = write_repository(folder / "repository")
    serving = Serving(folder / "box", repository.settings)
    try:
        yield Box(serving.wait_ready(), repository)
        assert serving.stop() == 0, serving.log
    finally:
        serving.kill()


@pytest.fixture
async def key(box: Box) -> tuple[str, str]:
    """Secret and id of a key with a day of its own, too large to be used up."""
    return await asyncio.to_thread(new_key, box.serving, tpd_limit=1_000_000)


@pytest.mark.parametrize(("dialect", "stream"), KINDS)
async def test_an_answer_that_fails_costs_what_was_sent_of_it(
    box: Box, key: tuple[str, str], dialect: str, stream: bool
) -> None:
    secret, key_id = key
    # No reply takes so long that the engine is asked for it in one piece.
    prompt = script(emit=MARK, repeat=50, delay_ms=20, fail_at=7)
    call = Call(dialect, stream, prompt)
    await box.make(call, secret)
    charge = await box.charge(call)
    worked = len(prompt) + box.made(call)
    if stream:
        assert call.seen == 7
        assert charge == Charge("failed", len(prompt), 7, 0)
    else:
        assert (call.status, call.seen) == (502, 0)
        assert charge == Charge("failed", 0, 0, worked)
    used = charge.prompt + charge.completion
    await asyncio.to_thread(wait_until, lambda: box.used(key_id) == used, 30, "the day is settled")


@pytest.mark.parametrize("stream", [True, False])
async def test_of_a_batch_with_a_failing_prompt_only_what_was_sent_costs(
    box: Box, key: tuple[str, str], stream: bool
) -> None:
    secret, _ = key
    request_id = f"charge-batch-{stream}"
    good = script(emit=MARK, repeat=1000, delay_ms=10)
    bad = script(emit="^", repeat=50, delay_ms=20, fail_at=5)
    body = {"model": MODEL, "prompt": [good, bad], "stream": stream, "max_tokens": 1000}
    headers = {**bearer(secret), "x-request-id": request_id}
    async with httpx2.AsyncClient(
        base_url=box.serving.url, headers=headers, timeout=TIMEOUT_S
    ) as client:
        reply = await client.post("/v1/completions", json=body)
    wait_until(lambda: len(box._charges(request_id)) == 2, 30, "both are recorded")
    charges = sorted(box._charges(request_id), key=lambda one: one.completion)
    assert {one.outcome for one in charges} == {"failed"}
    made = sum(one.get("tokens", 0) for one in box.repository.events(request_id))
    total = Charge("failed", *(sum(column) for column in list(zip(*charges, strict=True))[1:]))
    if stream:
        seen = (reply.text.count("^"), reply.text.count(MARK))
        assert seen[0] == 5
        assert sorted(one.completion for one in charges) == sorted(seen)
        assert total.prompt == len(good) + len(bad)
        assert total.completion + total.wasted == made
    else:
        assert reply.status_code == 502
        assert (total.prompt, total.completion) == (0, 0)
        assert total.wasted == len(good) + len(bad) + made


async def test_tokens_behind_a_stop_string_are_waste(box: Box, key: tuple[str, str]) -> None:
    secret, key_id = key
    prompt = script(emit="abc" + MARK * 400, delay_ms=2, tokens_per_response=8)
    messages = [{"role": "user", "content": prompt}]
    headers = {**bearer(secret), "x-request-id": "charge-stop-x"}
    async with httpx2.AsyncClient(
        base_url=box.serving.url, headers=headers, timeout=TIMEOUT_S
    ) as client:
        body = {"model": MODEL, "messages": messages, "stop": ["c"]}
        usage = (await client.post("/v1/chat/completions", json=body)).json()["usage"]
    call = Call("chat", stream=False, prompt=prompt, request_id="charge-stop-x")
    charge = await box.charge(call)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(prompt), 3)
    assert charge == Charge("ok", len(prompt), 3, box.made(call) - 3)
    assert charge.wasted >= 5
    wait_until(lambda: box.used(key_id) == len(prompt) + 3, 30, "the day is settled")


async def test_a_client_that_leaves_pays_what_was_made_until_the_engine_stopped(
    box: Box, key: tuple[str, str]
) -> None:
    secret, _ = key
    for stream in (True, False):
        call = Call("chat", stream, script(emit=MARK, repeat=500, delay_ms=20))
        making = asyncio.create_task(box.make(call, secret))
        await asyncio.to_thread(wait_until, partial(_has_made, box, call, 5), 30, f"{call} works")
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        charge = await box.charge(call)
        assert charge == Charge("cancelled", len(call.prompt), box.made(call), 0)


def _has_made(box: Box, call: Call, tokens: int) -> bool:
    return box.made(call) >= tokens


async def test_of_an_engine_that_dies_each_client_pays_what_it_got(
    box: Box, key: tuple[str, str]
) -> None:
    secret, key_id = key
    prompt = script(emit=MARK, repeat=2000, delay_ms=20)
    calls = [Call(dialect, stream, prompt) for dialect, stream in KINDS]
    making = [asyncio.create_task(box.make(call, secret)) for call in calls]
    for call in calls:
        await asyncio.to_thread(wait_until, partial(_has_made, box, call, 7), 60, f"{call} works")
    (await asyncio.to_thread(box.serving.stub)).kill()
    await asyncio.gather(*making)
    used = 0
    for call in calls:
        charge = await box.charge(call)
        if call.stream:
            assert call.seen > 0, call
            assert charge[:3] == ("failed", len(prompt), call.seen), call
        else:
            assert call.status == 503, call
            assert charge[:3] == ("failed", 0, 0), call
            assert len(prompt) + 7 <= charge.wasted <= len(prompt) + box.made(call), call
        used += charge.prompt + charge.completion
    await asyncio.to_thread(wait_until, lambda: box.used(key_id) == used, 30, "the day is settled")
    _check_told(box, key_id, used)


async def test_what_a_stop_of_the_server_cuts_off_costs_what_was_sent(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    serving = Serving(tmp_path / "box", {**repository.settings, "SERVER__DRAIN_S": 1})
    slow = script(emit=MARK, repeat=2000, delay_ms=20)
    kinds = [
        ("chat", True), ("chat", False), ("responses", True), ("completions", False),
        ("background", True), ("realtime", True),
    ]  # fmt: skip
    calls = [Call(dialect, stream, slow) for dialect, stream in kinds]
    waiting = Call("chat", stream=False, prompt=script(emit=MARK, first_delay_ms=60_000))
    try:
        box = Box(serving.wait_ready(), repository)
        making = [asyncio.create_task(box.make(one, serving.key)) for one in [*calls, waiting]]
        for one in calls:
            await asyncio.to_thread(wait_until, partial(_has_made, box, one, 7), 60, f"{one} works")
        await asyncio.to_thread(
            wait_until, lambda: len(repository.events(waiting.request_id)) > 0, 60, "it waits"
        )
        assert await asyncio.to_thread(serving.stop) == 0, serving.log
        await asyncio.gather(*making, return_exceptions=True)
    finally:
        serving.kill()
    for one in calls:
        charge = await box.charge(one)
        if one.stream:
            assert charge[:2] == ("failed", len(slow)), one
            # The events of the one in the background can be read after the next start only.
            assert one.seen <= charge.completion <= box.made(one), one
            assert one.seen > 0 or one.dialect == "background", one
        else:
            assert charge[:3] == ("failed", 0, 0), one
            assert charge.wasted >= len(slow) + 7, one
    assert await box.charge(waiting) == Charge("failed", 0, 0, 0)


def _check_told(box: Box, key_id: str, used: int) -> None:
    """The same by the API, as CSV, by the command line and in the metrics."""
    url, headers = f"{box.serving.base_url}/usage?key_id={key_id}", bearer(box.serving.key)
    total = httpx2.get(url, headers=headers).json()["total"]
    assert total["total_tokens"] == used
    wasted = total["wasted_tokens"]
    assert wasted > 0
    lines = httpx2.get(f"{url}&format=csv", headers=headers).text.splitlines()
    told = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert int(told["wasted_tokens"]) == wasted
    by_command = run_command(box.serving, "usage", "--key", key_id)
    assert by_command["total"]["wasted_tokens"] == wasted
    metrics = httpx2.get(f"{box.serving.url}/metrics", headers=headers).text
    name = 'orchestrator_tokens_wasted_total{model="scripted/scripted",outcome="failed"'
    assert any(line.startswith(name) for line in metrics.splitlines())
