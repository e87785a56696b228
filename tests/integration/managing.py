"""The application on a store of its own, with two tenants and somebody who manages each."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from orchestrator.app import create_app
from orchestrator.core.limits import Limits
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper, new_key_secret
from orchestrator.settings import Settings, StoreSettings, TritonSettings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from tests.postgresql import PostgresServer

CACHE_S = 0.2
KINDS = ("sqlite", "postgresql")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Manager:
    """Somebody with a key, and what they get with it."""

    client: httpx2.AsyncClient
    secret: str
    key_id: str
    tenant_id: str

    async def call(
        self, method: str, path: str, body: Any = None, *, prefix: str = "/v1"
    ) -> httpx2.Response:
        """The reply to one call with this key."""
        headers = {"Authorization": f"Bearer {self.secret}"}
        return await self.client.request(method, prefix + path, json=body, headers=headers)

    async def create(self, **more: Any) -> dict[str, Any]:
        """A new key, its secret included."""
        body = {"label": "quickstart", "policy_id": "pol_default", **more}
        reply = await self.call("POST", "/keys", body)
        assert reply.status_code == 201, reply.text
        created: dict[str, Any] = reply.json()
        return created


class Box:
    """One process of the application; several may share a store.

    `suffix` is added to the names of tenants, so that tests that share a store do not meet.
    """

    def __init__(self, settings: Settings, client: httpx2.AsyncClient, suffix: str = "") -> None:
        self.settings = settings
        self.client = client
        self._suffix = suffix

    async def status(self, secret: str) -> tuple[int, str]:
        """What a call with `secret` ends with: the status, and the reason of a refusal."""
        reply = await self.client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
        error = reply.json().get("error", {})
        return reply.status_code, error.get("reason", "")

    async def manager(self, tenant: str, *, admin: bool = True) -> Manager:
        """Somebody new with a key of `tenant`, which is made when there is none."""
        secret = new_key_secret()
        database = Database(self.settings)
        async with database.unit_of_work() as session:
            row = await tenants.ensure(session, tenant + self._suffix, 1)
            new = NewKey("manager", row.id, scope="admin" if admin else "inference")
            key = await key_queries.create(session, new, secret, load_pepper(self.settings), 1)
        await database.close()
        return Manager(self.client, secret, key.id, row.id)

    async def limit_tenant(self, tenant_id: str, limits: Limits) -> None:
        """Puts limits on a tenant."""
        database = Database(self.settings)
        async with database.unit_of_work() as session:
            row = await tenants.get(session, tenant_id, to_write=True)
            assert row is not None
            row.rpm_limit, row.images_rpm_limit = limits.rpm, limits.images_rpm
            row.tpd_limit, row.concurrency_limit = limits.tpd, limits.concurrency
        await database.close()


def box_settings(folder: Path, url: str = "", **store: Any) -> Settings:
    """Settings of a box. Triton is out of reach, and nothing here needs it."""
    return Settings(
        data_dir=folder / "data",
        store=StoreSettings(url=url, **{"key_cache_s": CACHE_S, "connect_timeout_s": 30, **store}),
        triton=TritonSettings(mode="remote", url=f"unix:{folder}/nowhere"),
    )


@asynccontextmanager
async def running_box(settings: Settings) -> AsyncIterator[Box]:
    """A started box on a store that is brought to the newest schema."""
    await migrate(settings)
    app = create_app(settings)
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://appliance.test") as client,
    ):
        yield Box(settings, client)


def _settings_of(kind: str, folder: Path, request: pytest.FixtureRequest) -> Settings:
    if kind == "sqlite":
        return box_settings(folder)
    server: PostgresServer = request.getfixturevalue("postgresql")
    return box_settings(folder, server.new_database())


@pytest_asyncio.fixture(scope="module", params=KINDS)
async def shared_box(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Box]:
    """A box on each kind of store in turn, for all tests of a file."""
    folder = tmp_path_factory.mktemp("box")
    async with running_box(_settings_of(request.param, folder, request)) as box:
        yield box


@pytest.fixture
def box(shared_box: Box) -> Box:
    """The box of the file, with tenants that no other test has."""
    return Box(shared_box.settings, shared_box.client, f" {next(_numbers)}")


@pytest_asyncio.fixture(params=KINDS)
async def own_box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    """A box on each kind of store in turn, for a test that looks at every tenant or spoils it."""
    async with running_box(_settings_of(request.param, tmp_path, request)) as box:
        yield box
