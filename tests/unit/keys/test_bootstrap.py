from __future__ import annotations

import asyncio
import logging
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.bootstrap import FirstKey, bootstrap
from orchestrator.keys.secret import is_key_secret, load_pepper, new_key_secret
from orchestrator.settings import BootstrapSettings, SecuritySettings, Settings, SettingsError
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from orchestrator.store.tables import VirtualKey

pytestmark = pytest.mark.slow


def _with_key(settings: Settings, key: str, **more: object) -> Settings:
    return settings.model_copy(
        update={"bootstrap": BootstrapSettings(admin_key=SecretStr(key)), **more}
    )


async def _rows(settings: Settings) -> list[VirtualKey]:
    database = Database(settings)
    async with database.reading() as session:
        rows = await key_queries.listed(session)
    await database.close()
    return list(rows)


async def test_empty_store_gets_a_tenant_and_an_admin_key(settings: Settings) -> None:
    await migrate(settings)
    first = await bootstrap(settings)
    assert isinstance(first, FirstKey)
    assert is_key_secret(first.secret)
    assert first.path == settings.data_dir / "first-key"
    assert first.path.read_text() == first.secret + "\n"
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    (row,) = await _rows(settings)
    assert (row.id, row.scope, row.allowed_models) == (first.key_id, "admin", ["*"])
    assert row.digest == load_pepper(settings).digest(first.secret)


async def test_second_start_makes_no_second_key(settings: Settings) -> None:
    await migrate(settings)
    first = await bootstrap(settings)
    assert first is not None
    first.shown()
    assert await bootstrap(settings) is None
    assert len(await _rows(settings)) == 1


async def test_a_key_that_no_start_could_show_is_shown_by_a_later_one(settings: Settings) -> None:
    await migrate(settings)
    first = await bootstrap(settings)
    assert first is not None
    again = await bootstrap(settings)
    assert again == first
    assert len(await _rows(settings)) == 1
    first.path.write_text(new_key_secret() + "\n")
    assert await bootstrap(settings) is None


async def test_starts_at_the_same_time_make_one_key(settings: Settings) -> None:
    patient = settings.model_copy(
        update={"store": settings.store.model_copy(update={"busy_timeout_s": 20})}
    )
    await migrate(patient)
    made = await asyncio.gather(*[bootstrap(patient) for _ in range(8)])
    assert made[0] is not None
    assert all(first == made[0] for first in made)
    assert len(await _rows(patient)) == 1
    assert made[0].path.read_text().strip() == made[0].secret


async def test_given_key_is_made_and_written_nowhere(settings: Settings) -> None:
    await migrate(settings)
    given = _with_key(settings, new_key_secret())
    assert await bootstrap(given) is None
    assert await bootstrap(given) is None
    (row,) = await _rows(settings)
    assert row.scope == "admin"
    assert not (settings.data_dir / "first-key").exists()


async def test_given_key_is_added_to_a_store_that_has_keys(settings: Settings) -> None:
    await migrate(settings)
    assert await bootstrap(settings) is not None
    secret = new_key_secret()
    assert await bootstrap(_with_key(settings, secret)) is None
    digests = {row.digest for row in await _rows(settings)}
    assert len(digests) == 2
    assert load_pepper(settings).digest(secret) in digests


async def test_key_file_is_read_without_its_line_end(settings: Settings, tmp_path: Path) -> None:
    await migrate(settings)
    secret = new_key_secret()
    (tmp_path / "key").write_text(secret + "\n")
    given = settings.model_copy(
        update={"bootstrap": BootstrapSettings(admin_key_file=tmp_path / "key", tenant="acme")}
    )
    assert await bootstrap(given) is None
    (row,) = await _rows(settings)
    assert row.digest == load_pepper(settings).digest(secret)
    database = Database(settings)
    async with database.reading() as session:
        assert [tenant.name for tenant in await tenants.listed(session)] == ["acme"]
    await database.close()


async def test_revoked_given_key_stays_revoked(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await migrate(settings)
    secret = new_key_secret()
    await bootstrap(_with_key(settings, secret))
    database = Database(settings)
    async with database.unit_of_work() as session:
        await key_queries.revoke(session, (await key_queries.listed(session))[0].id, 5)
    await database.close()
    with caplog.at_level(logging.WARNING):
        assert await bootstrap(_with_key(settings, secret)) is None
    assert [row.status for row in await _rows(settings)] == ["revoked"]
    assert "is revoked" in caplog.text
    assert secret not in caplog.text


@pytest.mark.parametrize("key", ["", "hunter2", "op_live_26f2_tooshort", "ob_sk_" + "a" * 48])
async def test_key_of_another_format_is_refused_without_being_told(
    settings: Settings, key: str
) -> None:
    await migrate(settings)
    with pytest.raises(SettingsError) as caught:
        await bootstrap(_with_key(settings, key))
    assert str(caught.value) == (
        "`bootstrap.admin_key` does not hold a key in the format "
        "`op_live_<4 hex digits>_<32 hex digits>`"
    )
    assert await _rows(settings) == []


async def test_two_given_keys_are_one_too_many(settings: Settings, tmp_path: Path) -> None:
    both = BootstrapSettings(admin_key=SecretStr("x"), admin_key_file=tmp_path / "key")
    with pytest.raises(SettingsError, match="both set"):
        await bootstrap(settings.model_copy(update={"bootstrap": both}))


async def test_missing_key_file_is_named(settings: Settings, tmp_path: Path) -> None:
    missing = BootstrapSettings(admin_key_file=tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"`bootstrap\.admin_key_file` is `.*nowhere`, which"):
        await bootstrap(settings.model_copy(update={"bootstrap": missing}))


async def test_key_file_that_cannot_be_written_leaves_no_key(settings: Settings) -> None:
    await migrate(settings)
    (settings.data_dir / "first-key").mkdir()
    with pytest.raises(SettingsError, match=r"first-key` cannot be written"):
        await bootstrap(settings)
    assert await _rows(settings) == []
    (settings.data_dir / "first-key").rmdir()
    assert await bootstrap(settings) is not None


async def test_another_pepper_is_noticed_before_every_key_is_refused(settings: Settings) -> None:
    await migrate(settings)
    await bootstrap(settings)
    changed = SecuritySettings(pepper=SecretStr("another pepper for tests"))
    with pytest.raises(SettingsError, match="1 active keys in the store were made with another"):
        await bootstrap(settings.model_copy(update={"security": changed}))


async def test_first_key_is_not_in_its_repr(settings: Settings) -> None:
    await migrate(settings)
    first = await bootstrap(settings)
    assert first is not None
    assert first.secret not in repr(first)
