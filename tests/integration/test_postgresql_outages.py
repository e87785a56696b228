"""A PostgreSQL that is really stopped, or hangs, under a running application."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from orchestrator.keys.secret import new_key_secret
from tests.integration.managing import Box, Manager, box_settings, running_box
from tests.postgresql import PostgresServer

_GRACE_S = 4.0
_TIMEOUT_S = 0.5


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of these tests alone, for what they do to it."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def box(server: PostgresServer, tmp_path: Path) -> AsyncIterator[Box]:
    settings = box_settings(
        tmp_path,
        server.new_database(),
        key_grace_s=_GRACE_S,
        key_lookup_timeout_s=_TIMEOUT_S,
        connect_timeout_s=1.0,
        statement_timeout_s=2.0,
    )
    async with running_box(settings) as box:
        yield box


def _broken(server: PostgresServer, how: str) -> AbstractContextManager[None]:
    return server.stopped() if how == "stopped" else server.frozen()


async def _calls(box: Box, secrets: list[str], until: float) -> Counter[int]:
    """The statuses of calls with `secrets`, one after the other, up to a moment."""
    seen: Counter[int] = Counter()
    while time.monotonic() < until:
        for secret in secrets:
            seen[(await box.status(secret))[0]] += 1
        await asyncio.sleep(0.01)
    return seen


async def _refused(reply: httpx2.Response) -> None:
    assert reply.status_code == 503, reply.text
    assert reply.headers["retry-after"] == "1"
    assert reply.json()["code"] == "store_unavailable"


@asynccontextmanager
async def _in_thread(block: AbstractContextManager[None]) -> AsyncIterator[None]:
    """Stopping and starting a server takes a while, and the application runs in this loop."""
    await asyncio.to_thread(block.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(block.__exit__, None, None, None)


@pytest.mark.parametrize("how", ["stopped", "hanging"])
async def test_verified_keys_work_until_the_grace_ends_and_nobody_gets_401(
    box: Box, server: PostgresServer, how: str
) -> None:
    acme = await box.manager("acme")
    secrets = [(await acme.create(label=str(n)))["secret"] for n in range(5)]
    for secret in secrets:
        assert (await box.status(secret))[0] == 200
    async with _in_thread(_broken(server, how)):
        began_at = time.monotonic()
        # The last look at the store was a cache time ago, and stopping it has taken a while.
        runs = [_calls(box, secrets, began_at + _GRACE_S - 1.0) for _ in range(4)]
        seen: Counter[int] = sum(await asyncio.gather(*runs), Counter())
        assert set(seen) == {200}
        assert seen[200] > 50
        await asyncio.sleep(max(0.0, began_at + _GRACE_S + 0.1 - time.monotonic()))
        for secret in (*secrets, new_key_secret()):
            headers = {"Authorization": f"Bearer {secret}"}
            await _refused(await box.client.get("/v1/models", headers=headers))
    await _recovered(box, secrets)


@pytest.mark.parametrize("how", ["stopped", "hanging"])
async def test_management_is_refused_as_long_as_the_store_is_gone(
    box: Box, server: PostgresServer, how: str
) -> None:
    acme = await box.manager("acme")
    key = await acme.create()
    async with _in_thread(_broken(server, how)):
        began_at = time.monotonic()
        replies = await asyncio.gather(
            acme.call("POST", "/keys", {"label": "x", "policy_id": "pol_default"}),
            acme.call("GET", "/keys"),
            acme.call("DELETE", f"/keys/{key['id']}"),
        )
        # Both limits of the server, and the pauses of a connection that is thrown away.
        assert time.monotonic() - began_at < 60
        for reply in replies:
            await _refused(reply)
    await _recovered(box, [key["secret"]])
    # What was refused has not happened behind our back.
    shown = await _managed(acme, key["id"])
    assert shown["status"] == "active"
    assert (await acme.call("DELETE", f"/keys/{key['id']}")).status_code == 204


async def _recovered(box: Box, secrets: list[str]) -> None:
    """Waits until every key is answered from the store again, by itself."""
    for secret in secrets:
        await _until(functools.partial(box.status, secret), (200, ""))
    await _until(lambda: box.status(new_key_secret()), (401, "invalid_api_key"))


async def _until(ask: Callable[[], Awaitable[tuple[int, str]]], wanted: tuple[int, str]) -> None:
    async with asyncio.timeout(60):
        while (seen := await ask()) != wanted:
            assert seen[0] == 503, seen
            await asyncio.sleep(0.1)


async def _managed(manager: Manager, key_id: str) -> dict[str, object]:
    replies: list[httpx2.Response] = []

    async def ask() -> tuple[int, str]:
        replies.append(await manager.call("GET", f"/keys/{key_id}"))
        return replies[-1].status_code, ""

    await _until(ask, (200, ""))
    shown: dict[str, object] = replies[-1].json()
    return shown
