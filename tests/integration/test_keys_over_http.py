"""What clients of the HTTP interface see of keys, and of a store that is out of reach."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from orchestrator.app import create_app
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper, new_key_secret
from orchestrator.settings import Settings, StoreSettings, TritonSettings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate

_CACHE_S = 0.2
_GRACE_S = 1.5


class Service:
    """The application on a store of its own. Triton is out of reach, and no call here needs it."""

    def __init__(self, settings: Settings, client: httpx2.AsyncClient) -> None:
        self.settings = settings
        self.client = client
        self.file = settings.data_dir / "orchestrator.db"

    async def add(self, **more: Any) -> str:
        secret = new_key_secret()
        database = Database(self.settings)
        async with database.unit_of_work() as session:
            tenant = await tenants.ensure(session, "acme", 1)
            new = NewKey("quickstart", tenant.id, **more)
            await key_queries.create(session, new, secret, load_pepper(self.settings), 1)
        await database.close()
        return secret

    async def models(self, secret: str | None) -> httpx2.Response:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return await self.client.get("/v1/models", headers=headers)


@pytest_asyncio.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    settings = Settings(
        data_dir=tmp_path / "data",
        store=StoreSettings(key_cache_s=_CACHE_S, key_grace_s=_GRACE_S),
        triton=TritonSettings(mode="remote", url=f"unix:{tmp_path}/nowhere"),
    )
    await migrate(settings)
    app = create_app(settings)
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://appliance.test") as client,
    ):
        yield Service(settings, client)


async def test_good_key_sees_the_models_in_its_scope(service: Service) -> None:
    everything = (await service.models(await service.add())).json()["data"]
    names = {entry["id"] for entry in everything}
    assert {"demo/chat", "demo/embed"} <= names
    secret = await service.add(allowed_models=("demo/embed",))
    some = {entry["id"] for entry in (await service.models(secret)).json()["data"]}
    assert "demo/embed" in some
    assert "demo/chat" not in some


def _revoke_all(file: Path) -> None:
    with sqlite3.connect(file) as other:
        other.execute("UPDATE virtual_key SET status = 'revoked', revoked_at = 2")
    other.close()


@pytest.mark.parametrize("kind", ["missing", "unknown", "malformed", "expired", "revoked"])
async def test_refused_key_says_why(service: Service, kind: str) -> None:
    secret: str | None = None
    match kind:
        case "unknown":
            secret = new_key_secret()
        case "malformed":
            secret = "sk-0000"
        case "expired":
            secret = await service.add(expires_at=int(time.time()) - 1)
        case "revoked":
            secret = await service.add()
            # In a thread: the service may be within a write, which needs this loop to end.
            await asyncio.to_thread(_revoke_all, service.file)
    reply = await service.models(secret)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    error = reply.json()["error"]
    assert error["code"] == "unauthorized"
    assert (
        error["reason"]
        == {
            "missing": "missing_api_key",
            "unknown": "invalid_api_key",
            "malformed": "invalid_api_key",
            "expired": "key_expired",
            "revoked": "key_revoked",
        }[kind]
    )
    if secret is not None:
        assert secret not in reply.text


_AWAY = """
ALTER TABLE virtual_key RENAME TO elsewhere;
ALTER TABLE key_change RENAME TO changed_elsewhere;
"""
_BACK = """
ALTER TABLE elsewhere RENAME TO virtual_key;
ALTER TABLE changed_elsewhere RENAME TO key_change;
"""


async def test_store_out_of_reach_is_503_and_never_401(service: Service) -> None:
    secret = await service.add()
    assert (await service.models(secret)).status_code == 200
    broken = sqlite3.connect(service.file, check_same_thread=False)
    # In a thread: a writer of the service may have to end first, and it needs the event loop.
    await asyncio.to_thread(broken.executescript, _AWAY)
    try:
        ends_at = time.monotonic() + _GRACE_S
        statuses = set()
        while time.monotonic() < ends_at - 0.2:
            statuses.add((await service.models(secret)).status_code)
            await asyncio.sleep(0.05)
        assert statuses == {200}
        await asyncio.sleep(0.3)
        for key in (secret, new_key_secret()):
            reply = await service.models(key)
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "1"
            assert reply.json()["error"]["code"] == "store_unavailable"
            assert str(service.settings.data_dir) not in reply.text
    finally:
        await asyncio.to_thread(broken.executescript, _BACK)
        broken.close()
    await asyncio.sleep(1.1)
    assert (await service.models(secret)).status_code == 200
    assert (await service.models(new_key_secret())).status_code == 401
