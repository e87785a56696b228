"""The books of a whole `orchestrator serve`: every answer that ended is in them, once."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.scripted.repository import ScriptedRepository, script, write_repository
from tests.integration.serving import Serving, settings_env, wait_until
from tests.postgresql import PostgresServer

CLIENTS = 8
pytestmark = pytest.mark.timeout(300)


@dataclass
class Load:
    """Clients that ask without a pause until `stop`; half of them stream."""

    serving: Serving
    finished: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    begun: int = 0
    stopped: bool = False

    async def run(self) -> None:
        async with httpx2.AsyncClient(
            base_url=self.serving.url,
            headers={"authorization": f"Bearer {self.serving.key}"},
            timeout=60,
        ) as client:
            await asyncio.gather(*(self._client(client, number) for number in range(CLIENTS)))

    async def _client(self, client: httpx2.AsyncClient, number: int) -> None:
        while not self.stopped:
            self.begun += 1
            request_id = f"load-{number}-{self.begun}"
            try:
                await self._ask(client, request_id, stream=number % 2 == 0)
            except httpx2.HTTPError:
                # The server was killed under it.
                await asyncio.sleep(0.05)

    async def _ask(self, client: httpx2.AsyncClient, request_id: str, *, stream: bool) -> None:
        prompt = script(emit="abcdefgh", repeat=2, delay_ms=2)
        body = {
            "model": "scripted/scripted",
            "messages": [{"role": "user", "content": prompt}],
            "stream": stream,
        }
        async with client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"x-request-id": request_id}
        ) as reply:
            text = (await reply.aread()).decode()
        self.statuses[reply.status_code] += 1
        is_whole = text.endswith("data: [DONE]\n\n") if stream else "usage" in text
        if reply.status_code == 200 and is_whole:
            self.finished.append(request_id)


@pytest.fixture
def repository(tmp_path: Path) -> ScriptedRepository:
    return write_repository(tmp_path / "repository")


@pytest.fixture
def own_postgresql() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def booked(data_dir: Path) -> Counter[str]:
    """How often each request is in the books."""
    connection = sqlite3.connect(f"file:{data_dir / 'orchestrator.db'}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT request_id, count(*) FROM usage_record GROUP BY 1")
        return Counter(dict(rows.fetchall()))
    finally:
        connection.close()


def journals(data_dir: Path) -> list[Path]:
    """Those with lines in them; space that is reserved ahead has none."""
    found = []
    for path in (data_dir / "journal").glob("*/*.journal"):
        # It may have been brought in meanwhile.
        with suppress(FileNotFoundError):
            if path.stat().st_size:
                found.append(path)
    return found


def usage(serving: Serving, **query: str) -> Any:
    reply = httpx2.get(
        f"{serving.base_url}/usage",
        params=query,
        headers={"authorization": f"Bearer {serving.key}"},
        timeout=60,
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_a_killed_worker_loses_no_answer_that_ended_and_books_none_twice(
    tmp_path: Path, repository: ScriptedRepository
) -> None:
    serving = Serving(tmp_path, repository.settings).wait_ready()
    try:
        load = Load(serving)
        running = asyncio.create_task(load.run())
        for _ in range(2):
            seen = len(load.finished)
            await asyncio.to_thread(wait_until, lambda: len(load.finished) > seen + 50, 120, "load")  # noqa: B023  # waited for here
            worker = await asyncio.to_thread(serving.worker)
            worker.send_signal(signal.SIGKILL)
        seen = len(load.finished)
        await asyncio.to_thread(wait_until, lambda: len(load.finished) > seen + 20, 120, "load")
        load.stopped = True
        await running
        assert serving.stop() == 0, serving.log
    finally:
        serving.kill()
    in_books = booked(serving.data_dir)
    assert len(load.finished) > 100
    assert set(load.finished) - set(in_books) == set()
    assert max(in_books.values()) == 1
    assert journals(serving.data_dir) == []


async def test_a_killed_appliance_finds_its_books_complete_at_the_next_start(
    tmp_path: Path, repository: ScriptedRepository
) -> None:
    # So long an interval that what is killed is in the journal only.
    settings = {**repository.settings, "BOOKS__COMMIT_INTERVAL_S": 60}
    serving = Serving(tmp_path, settings).wait_ready()
    try:
        load = Load(serving)
        running = asyncio.create_task(load.run())
        await asyncio.to_thread(wait_until, lambda: len(load.finished) > 60, 120, "load")
        for process in await asyncio.to_thread(serving.processes):
            process.send_signal(signal.SIGKILL)
        load.stopped = True
        await running
    finally:
        serving.kill()
    assert len(journals(serving.data_dir)) >= 1
    again = Serving(tmp_path, repository.settings).wait_ready()
    try:
        wait_until(lambda: len(journals(again.data_dir)) == 0, 60, "the journal is brought in")
        total = usage(again)["total"]
        assert again.stop() == 0, again.log
    finally:
        again.kill()
    in_books = booked(again.data_dir)
    assert set(load.finished) - set(in_books) == set()
    assert max(in_books.values()) == 1
    assert total["requests"] == len(in_books)


async def test_the_sum_of_the_books_is_what_the_engine_emitted(
    tmp_path: Path, repository: ScriptedRepository
) -> None:
    serving = Serving(tmp_path, repository.settings).wait_ready()
    try:
        load = Load(serving)
        running = asyncio.create_task(load.run())
        await asyncio.to_thread(wait_until, lambda: len(load.finished) > 60, 120, "load")
        # Some leave in the middle, and one stops at a string that the engine runs past.
        await _leave_early(serving, 12)
        await _stop_at(serving, "c")
        load.stopped = True
        await running
        emitted = prompts = 0
        for event in repository.events():
            if event["event"] == "token" and _is_asked(event["id"]):
                emitted += event["tokens"]
            if event["event"] == "start" and _is_asked(event["id"]):
                prompts += event["prompt_tokens"]

        def are_equal() -> bool:
            total = usage(serving)["total"]
            made = total["completion_tokens"] + total["wasted_tokens"]
            return (made, total["prompt_tokens"]) == (emitted, prompts)

        await asyncio.to_thread(wait_until, are_equal, 20, f"{emitted} tokens in the books")
        by_key = usage(serving, group_by="model,key,day")["data"]
        charged = sum(line["completion_tokens"] for line in by_key)
        wasted = sum(line["wasted_tokens"] for line in by_key)
        # Only the engine that ran past its stop string worked in vain.
        stopped = sum(event.get("tokens", 0) for event in repository.events("stop-"))
        assert (charged + wasted, wasted) == (emitted, stopped - len("abc"))
        assert usage(serving)["total"]["cancelled"] == 12
        assert serving.stop() == 0, serving.log
        _check_cli(serving, charged)
    finally:
        serving.kill()


def _is_asked(engine_id: str) -> bool:
    """Not one of the supervisor's own."""
    return engine_id.startswith(("load-", "leave-", "stop-"))


async def _leave_early(serving: Serving, count: int) -> None:
    body = {
        "model": "scripted/scripted",
        "messages": [{"role": "user", "content": script(emit="x" * 500, delay_ms=5)}],
        "stream": True,
    }
    headers = {"authorization": f"Bearer {serving.key}"}
    async with httpx2.AsyncClient(base_url=serving.url, headers=headers, timeout=60) as client:
        for number in range(count):
            name = {"x-request-id": f"leave-{number}"}
            async with client.stream(
                "POST", "/v1/chat/completions", json=body, headers=name
            ) as reply:
                async for _ in reply.aiter_bytes():
                    break


async def _stop_at(serving: Serving, stop: str) -> None:
    body = {
        "model": "scripted/scripted",
        "messages": [{"role": "user", "content": script(emit="abcdefgh" * 20, delay_ms=1)}],
        "stop": [stop],
    }
    headers = {"authorization": f"Bearer {serving.key}", "x-request-id": "stop-1"}
    async with httpx2.AsyncClient(base_url=serving.url, headers=headers, timeout=60) as client:
        reply = await client.post("/v1/chat/completions", json=body)
    assert reply.json()["choices"][0]["message"]["content"] == "ab"


def _check_cli(serving: Serving, charged: int) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "orchestrator", "usage", "--json", "--by", "hour,model"],
        env=settings_env({"DATA_DIR": serving.data_dir}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout)["total"]["completion_tokens"] == charged


async def test_books_are_complete_after_postgresql_was_away_under_load(
    tmp_path: Path, repository: ScriptedRepository, own_postgresql: PostgresServer
) -> None:
    url = own_postgresql.new_database()
    settings = {**repository.settings, "STORE__URL": url}
    serving = Serving(tmp_path, settings).wait_ready()
    try:
        load = Load(serving)
        running = asyncio.create_task(load.run())
        await asyncio.to_thread(wait_until, lambda: len(load.finished) > 40, 120, "load")
        own_postgresql.stop()
        away_since, seen = time.monotonic(), len(load.finished)
        # Long enough for every kind of retry, and for many answers.
        await asyncio.to_thread(
            wait_until,
            lambda: len(load.finished) > seen + 100 and time.monotonic() - away_since > 8,
            90,
            "answers without a database",
        )
        await asyncio.to_thread(own_postgresql.start)
        load.stopped = True
        await running
        finished = len(load.finished)
        await asyncio.to_thread(
            wait_until,
            lambda: _total(serving) >= finished,
            60,
            "the books are complete",
        )
        assert _total(serving) == finished
        assert set(load.statuses) == {200}
        assert serving.stop() == 0, serving.log
    finally:
        serving.kill()
    assert journals(serving.data_dir) == []


def _total(serving: Serving) -> int:
    reply = httpx2.get(
        f"{serving.base_url}/usage",
        headers={"authorization": f"Bearer {serving.key}"},
        timeout=60,
    )
    return int(reply.json()["total"]["requests"]) if reply.status_code == 200 else -1
