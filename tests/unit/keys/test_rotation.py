"""Secrets that were replaced, peppers that were replaced, and changes that count at once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.core.limits import Limits
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.bootstrap import bootstrap
from orchestrator.keys.secret import load_pepper, load_previous_peppers, new_key_secret
from orchestrator.settings import SecuritySettings, Settings, SettingsError
from orchestrator.store.tables import VirtualKey
from tests.unit.keys.bench import CACHE_S, Bench

_OLD = "a pepper for tests only"
_NEW = "the pepper that comes after it"


async def _rotate(bench: Bench, key_id: str, ends_at: float) -> str:
    secret = new_key_secret()
    async with bench.database.unit_of_work() as session:
        row = await key_queries.find(session, key_id, to_write=True)
        assert row is not None
        pepper = load_pepper(bench.settings)
        await key_queries.rotate(session, row, secret, pepper, ends_at=int(ends_at))
    return secret


async def _row(bench: Bench, key_id: str) -> VirtualKey:
    async with bench.database.reading() as session:
        row = await key_queries.find(session, key_id)
    assert row is not None
    return row


def _with_peppers(settings: Settings, pepper: str, *previous: str) -> Settings:
    security = SecuritySettings(
        pepper=SecretStr(pepper), previous_peppers=tuple(SecretStr(text) for text in previous)
    )
    return settings.model_copy(update={"security": security})


async def test_principal_has_the_limits_of_key_plan_and_tenant(bench: Bench) -> None:
    key_id, secret = await bench.add(plan="standard", limits=Limits(rpm=7, tpd=100))
    async with bench.database.unit_of_work() as session:
        tenant = await tenants.find(session, "acme")
        assert tenant is not None
        tenant.plan, tenant.concurrency_limit, tenant.api_disabled = "free", 3, True
    principal = await bench.auth.authenticate(secret)
    assert principal.limits == Limits(rpm=7, images_rpm=20, tpd=100)
    assert principal.tenant_limits == Limits(rpm=10, images_rpm=5, concurrency=3)
    assert (principal.plan, principal.tenant_plan, principal.api_disabled) == (
        "standard",
        "free",
        True,
    )
    assert await bench.auth.principal_of(principal.tenant_id, key_id) == (principal, None)
    assert await bench.auth.principal_of("ten_other", key_id) is None


async def test_key_that_would_be_refused_is_told_with_its_refusal(bench: Bench) -> None:
    key_id, secret = await bench.add()
    tenant_id = (await bench.auth.authenticate(secret)).tenant_id
    await bench.revoke(key_id)
    told = await bench.auth.principal_of(tenant_id, key_id)
    assert told is not None
    assert told[1] is not None
    assert (told[1].detail_reason, told[1].key_id) == ("key_revoked", key_id)


async def test_replaced_secret_is_good_until_its_very_second(bench: Bench) -> None:
    key_id, old = await bench.add()
    new = await _rotate(bench, key_id, bench.wall.at + 10)
    for secret in (old, new):
        assert (await bench.auth.authenticate(secret)).key_id == key_id
    bench.wall.at += 9.9
    await bench.auth.authenticate(old)
    bench.wall.at += 0.1
    assert await bench.reason(old) == "key_revoked"
    await bench.auth.authenticate(new)


async def test_last_use_of_each_secret_is_written_down(bench: Bench) -> None:
    key_id, old = await bench.add()
    new = await _rotate(bench, key_id, bench.wall.at + 1000)
    await bench.auth.authenticate(old)
    used_at = int(bench.wall.at)
    bench.wall.at += 100
    await bench.auth.authenticate(new)
    await bench.auth.record_use()
    row = await _row(bench, key_id)
    assert (row.previous_last_used_at, row.last_used_at) == (used_at, used_at + 100)


async def test_secret_before_the_last_but_one_is_unknown(bench: Bench) -> None:
    key_id, first = await bench.add()
    second = await _rotate(bench, key_id, bench.wall.at + 1000)
    third = await _rotate(bench, key_id, bench.wall.at + 1000)
    assert await bench.reason(first) == "invalid_api_key"
    for secret in (second, third):
        await bench.auth.authenticate(secret)


async def test_key_under_an_older_pepper_is_digested_anew_at_once(bench: Bench) -> None:
    key_id, old = await bench.add()
    new = await _rotate(bench, key_id, bench.wall.at + 1000)
    settings = _with_peppers(bench.settings, _NEW, "one that is older still", _OLD)
    authenticator = Authenticator(settings, now=bench.wall)
    await authenticator.start()
    for secret in (new, old):
        assert (await authenticator.authenticate(secret)).key_id == key_id
    await authenticator.close()
    pepper = load_pepper(settings)
    row = await _row(bench, key_id)
    assert (row.digest, row.pepper_id) == (pepper.digest(new), pepper.id)
    assert (row.previous_digest, row.previous_pepper_id) == (pepper.digest(old), pepper.id)
    assert row.last_used_at == int(bench.wall.at)
    alone = Authenticator(_with_peppers(bench.settings, _NEW), now=bench.wall)
    await alone.start()
    assert (await alone.authenticate(new)).key_id == key_id
    await alone.close()


async def test_key_that_cannot_be_digested_anew_works_all_the_same(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    key_id, secret = await bench.add()
    authenticator = Authenticator(_with_peppers(bench.settings, _NEW, _OLD), now=bench.wall)
    await authenticator.start()
    other = sqlite3.connect(bench.file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert (await authenticator.authenticate(secret)).key_id == key_id
    finally:
        other.close()
    await authenticator.close()
    assert f"key {key_id} keeps its old pepper for now" in caplog.text
    assert (await _row(bench, key_id)).digest == load_pepper(bench.settings).digest(secret)


async def test_keys_of_an_older_pepper_are_no_strangers_to_a_start(bench: Bench) -> None:
    await bench.add()
    with pytest.raises(SettingsError, match="were made with another pepper"):
        await bootstrap(_with_peppers(bench.settings, _NEW))
    assert await bootstrap(_with_peppers(bench.settings, _NEW, _OLD)) is None


def test_older_peppers_come_from_a_file_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "old"
    file.write_text(f"{_OLD}\n\n{_NEW}\n")
    settings = Settings(data_dir=tmp_path, security=SecuritySettings(previous_peppers_file=file))
    assert [pepper.secret.decode() for pepper in load_previous_peppers(settings)] == [_OLD, _NEW]


@pytest.mark.parametrize(
    ("security", "sentence"),
    [
        ({"previous_peppers": ("short",)}, r"`security\.previous_peppers` holds 5 bytes"),
        ({"previous_peppers_file": "nowhere"}, r"`security\.previous_peppers_file` is `nowhere`"),
        ({"previous_peppers": (_OLD,), "previous_peppers_file": "nowhere"}, "both set"),
    ],
)
def test_older_peppers_that_cannot_be_used_are_named(
    tmp_path: Path, security: dict[str, object], sentence: str
) -> None:
    settings = Settings(data_dir=tmp_path, security=SecuritySettings.model_validate(security))
    with pytest.raises(SettingsError, match=sentence) as caught:
        load_previous_peppers(settings)
    assert _OLD not in str(caught.value)


async def test_forgotten_key_is_asked_for_anew(bench: Bench) -> None:
    key_id, secret = await bench.add()
    _, other = await bench.add()
    for each in (secret, other):
        await bench.auth.authenticate(each)
    await bench.revoke(key_id)
    queries = bench.queries
    await bench.auth.authenticate(secret)
    bench.auth.forget(key_id)
    assert await bench.reason(secret) == "key_revoked"
    await bench.auth.authenticate(other)
    assert bench.queries == queries + 1


async def test_answer_from_before_a_change_is_not_kept(bench: Bench) -> None:
    key_id, secret = await bench.add()
    async with bench.read_before(secret):
        await bench.revoke(key_id)
        bench.auth.forget(key_id)
        assert await bench.reason(secret) == "key_revoked"
    assert await bench.reason(secret) == "key_revoked"
    bench.monotonic.at += CACHE_S
    assert await bench.reason(secret) == "key_revoked"
