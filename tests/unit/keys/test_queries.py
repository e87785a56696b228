from __future__ import annotations

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orchestrator.core.limits import Limits
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper, new_key_secret
from orchestrator.settings import Settings
from orchestrator.store.database import Database, StoreError
from orchestrator.store.migrate import migrate
from orchestrator.store.tables import KeyScope, VirtualKey, explicit_limits

_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")


async def _create(
    database: Database, settings: Settings, label: str = "quickstart", now: int = 100
) -> tuple[VirtualKey, str]:
    secret = new_key_secret()
    async with database.unit_of_work() as session:
        tenant = await tenants.ensure(session, "acme", now)
        new = NewKey(label=label, tenant_id=tenant.id, allowed_models=("a/b", "c:d"))
        return await key_queries.create(session, new, secret, load_pepper(settings), now), secret


async def _add(database: Database, settings: Settings, tenant_id: str, secret: str) -> None:
    async with database.unit_of_work() as session:
        await key_queries.create(
            session, NewKey("again", tenant_id), secret, load_pepper(settings), 100
        )


async def test_key_is_found_by_its_digest(database: Database, settings: Settings) -> None:
    made, secret = await _create(database, settings)
    async with database.reading() as session:
        found = await key_queries.find_by_digest(session, load_pepper(settings).digest(secret))
        assert (
            await key_queries.find_by_digest(session, load_pepper(settings).digest("other")) is None
        )
    assert found is not None
    assert found.id == made.id
    assert found.allowed_models == ["a/b", "c:d"]
    assert (found.prefix, found.last4) == (secret[:12], secret[-4:])
    assert (found.scope, found.status, found.created_at) == ("inference", "active", 100)
    assert found.expires_at is found.revoked_at is found.last_used_at is None


async def test_every_member_of_a_new_key_is_stored(database: Database, settings: Settings) -> None:
    async with database.unit_of_work() as session:
        tenant = await tenants.ensure(session, "acme", 1)
        new = NewKey(
            "full", tenant.id, "admin", ("a/b",), 9, "pol_x", "pro", Limits(1, 2, 3, 4), "dep_1",
            "cloud-ok", {"team": "x"},
        )  # fmt: skip
        row = await key_queries.create(session, new, new_key_secret(), load_pepper(settings), 1)
    stored = NewKey(
        row.label, row.tenant_id, cast("KeyScope", row.scope), tuple(row.allowed_models),
        row.expires_at, row.policy_id, row.plan, explicit_limits(row), row.deployment_id,
        row.route_policy, row.key_metadata,
    )  # fmt: skip
    assert stored == new


async def test_secret_is_nowhere_in_the_files_of_the_store(
    database: Database, settings: Settings
) -> None:
    _, secret = await _create(database, settings)
    await database.close()
    middle = secret[14:-4].encode()
    for path in settings.data_dir.iterdir():
        assert middle not in path.read_bytes()


async def test_same_secret_twice_is_refused(database: Database, settings: Settings) -> None:
    made, secret = await _create(database, settings)
    with pytest.raises(StoreError, match=r"IntegrityError \(UNIQUE constraint failed"):
        await _add(database, settings, made.tenant_id, secret)


async def test_key_of_no_tenant_is_refused(database: Database, settings: Settings) -> None:
    with pytest.raises(StoreError, match=r"IntegrityError \(FOREIGN KEY constraint"):
        await _add(database, settings, "ten_nobody", new_key_secret())


async def test_revoking_twice_keeps_the_first_time(database: Database, settings: Settings) -> None:
    made, _ = await _create(database, settings)
    async with database.unit_of_work() as session:
        first = await key_queries.revoke(session, made.id, 200)
    async with database.unit_of_work() as session:
        second = await key_queries.revoke(session, made.id, 300)
    async with database.unit_of_work() as session:
        assert await key_queries.revoke(session, "key_nobody", 300) is None
    assert first is not None
    assert second is not None
    assert (first[0].status, first[0].revoked_at, first[1]) == ("revoked", 200, True)
    assert (second[0].status, second[0].revoked_at, second[1]) == ("revoked", 200, False)


async def test_last_use_moves_forward_only(database: Database, settings: Settings) -> None:
    made, _ = await _create(database, settings)
    for when in (500, 400, 600, 550):
        async with database.unit_of_work() as session:
            await key_queries.record_use(
                session, {(made.id, made.digest): when, ("key_nobody", b"nobody"): when}
            )
    async with database.reading() as session:
        assert [key.last_used_at for key in await key_queries.listed(session)] == [600]


async def test_keys_are_listed_oldest_first(database: Database, settings: Settings) -> None:
    for label, now in (("second", 200), ("third", 300), ("first", 100)):
        await _create(database, settings, label, now)
    async with database.reading() as session:
        assert [key.label for key in await key_queries.listed(session)] == [
            "first",
            "second",
            "third",
        ]


async def test_tenant_is_found_by_id_and_by_name(database: Database) -> None:
    async with database.unit_of_work() as session:
        made = await tenants.ensure(session, "acme", 100)
        again = await tenants.ensure(session, "acme", 200)
        by_id = await tenants.ensure(session, made.id, 300)
        assert made.id == again.id == by_id.id
        assert await tenants.find(session, "nobody") is None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(data_dir=tmp_path_factory.mktemp("shared"))
    asyncio.run(migrate(settings))
    return settings


@hypothesis_settings(max_examples=50, deadline=None)
@given(
    label=st.text(_CHARACTERS, max_size=200),
    models=st.lists(st.text(_CHARACTERS), max_size=5),
    expires_at=st.none() | st.integers(0, 2**62),
)
def test_what_goes_in_comes_out(
    shared: Settings, label: str, models: list[str], expires_at: int | None
) -> None:
    async def round_trip() -> VirtualKey | None:
        database = Database(shared)
        pepper = load_pepper(shared)
        secret = new_key_secret()
        async with database.unit_of_work() as session:
            tenant = await tenants.ensure(session, "acme", 1)
            new = NewKey(label, tenant.id, "admin", tuple(models), expires_at)
            await key_queries.create(session, new, secret, pepper, 1)
        async with database.reading() as session:
            found = await key_queries.find_by_digest(session, pepper.digest(secret))
        await database.close()
        return found

    found = asyncio.run(round_trip())
    assert found is not None
    assert (found.label, found.allowed_models, found.expires_at) == (label, models, expires_at)
