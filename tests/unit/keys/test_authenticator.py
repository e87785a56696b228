from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orchestrator.core.caches import BoundedCache
from orchestrator.core.errors import Unauthenticated
from orchestrator.keys import authenticator as auth
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.principal import Principal
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper, new_key_secret
from orchestrator.store.database import StoreError
from orchestrator.store.migrate import migrate
from tests.unit.keys.bench import CACHE_S, Bench, bench_settings


async def test_good_key_becomes_its_principal(bench: Bench) -> None:
    key_id, secret = await bench.add(allowed_models=("a/b", "c:d"))
    principal = await bench.auth.authenticate(secret)
    assert principal == Principal(
        key_id=key_id,
        key_label="quickstart",
        tenant_id=principal.tenant_id,
        admin=False,
        allowed_models=("a/b", "c:d"),
    )
    assert principal.tenant_id.startswith("ten_")


async def test_admin_scope_and_all_models_are_told(bench: Bench) -> None:
    _, secret = await bench.add(scope="admin")
    principal = await bench.auth.authenticate(secret)
    assert principal.admin
    assert principal.allowed_models == ("*",)


@pytest.mark.parametrize("secret", [None, ""])
async def test_no_key_is_missing(bench: Bench, secret: str | None) -> None:
    assert await bench.reason(secret) == "missing_api_key"


async def test_unknown_key_is_invalid(bench: Bench) -> None:
    assert await bench.reason(new_key_secret()) == "invalid_api_key"


@pytest.mark.parametrize(
    "secret", ["x", "sk-" + "a" * 48, "op_live_26f2_", "\0", "\ud800", "é" * 45]
)
async def test_key_of_another_format_is_invalid_without_asking(bench: Bench, secret: str) -> None:
    assert await bench.reason(secret) == "invalid_api_key"
    assert bench.queries == 0


async def test_key_that_differs_in_one_character_is_invalid(bench: Bench) -> None:
    _, secret = await bench.add()
    for place in (-1, 9, 20):
        other = "0" if secret[place] != "0" else "1"
        changed = list(secret)
        changed[place] = other
        assert await bench.reason("".join(changed)) == "invalid_api_key"


async def test_expired_key_says_so_from_its_very_second(bench: Bench) -> None:
    _, secret = await bench.add(expires_at=int(bench.wall.at) + 10)
    await bench.auth.authenticate(secret)
    bench.wall.at += 9.9
    await bench.auth.authenticate(secret)
    bench.wall.at += 0.1
    assert await bench.reason(secret) == "key_expired"
    assert bench.queries == 1


async def test_revoked_key_says_so(bench: Bench) -> None:
    key_id, secret = await bench.add(expires_at=1)
    await bench.revoke(key_id)
    assert await bench.reason(secret) == "key_revoked"


async def test_verified_key_is_believed_without_a_query_and_then_asked_again(bench: Bench) -> None:
    key_id, secret = await bench.add()
    for _ in range(20):
        await bench.auth.authenticate(secret)
    assert bench.queries == 1
    await bench.revoke(key_id)
    bench.monotonic.at += CACHE_S - 0.01
    await bench.auth.authenticate(secret)
    bench.monotonic.at += 0.01
    assert await bench.reason(secret) == "key_revoked"
    assert bench.queries == 2


async def test_key_of_a_moment_ago_is_recalled_without_waiting(bench: Bench) -> None:
    key_id, secret = await bench.add(expires_at=bench.wall.at + 2 * CACHE_S)
    assert bench.auth.recall(secret) is None
    principal = await bench.auth.authenticate(secret)
    assert bench.auth.recall(secret) is principal
    assert bench.auth.recall(secret[:-1] + "x") is None
    assert bench.auth.recall(None) is None
    bench.monotonic.at += CACHE_S
    assert bench.auth.recall(secret) is None
    await bench.auth.authenticate(secret)
    bench.wall.at += 2 * CACHE_S
    assert bench.auth.recall(secret) is None
    bench.wall.at -= 2 * CACHE_S
    assert bench.auth.recall(secret) is not None
    bench.auth.forget(key_id)
    assert bench.auth.recall(secret) is None


async def test_unknown_key_is_remembered_and_then_asked_again(bench: Bench) -> None:
    secret = new_key_secret()
    for _ in range(20):
        assert await bench.reason(secret) == "invalid_api_key"
    assert bench.queries == 1
    async with bench.database.unit_of_work() as session:
        tenant = await tenants.ensure(session, "acme", 1)
        new = NewKey("late", tenant.id)
        await key_queries.create(session, new, secret, load_pepper(bench.settings), 1)
    bench.monotonic.at += CACHE_S
    assert (await bench.auth.authenticate(secret)).key_label == "late"


async def test_deleted_key_is_unknown_after_the_cache_time(bench: Bench) -> None:
    _, secret = await bench.add()
    await bench.auth.authenticate(secret)
    with sqlite3.connect(bench.file) as other:
        other.execute("DELETE FROM virtual_key")
    other.close()
    bench.monotonic.at += CACHE_S
    assert await bench.reason(secret) == "invalid_api_key"
    with bench.table_gone():
        bench.monotonic.at += CACHE_S
        assert await bench.is_unavailable(secret)


async def test_requests_at_the_same_time_share_one_query(bench: Bench) -> None:
    _, secret = await bench.add()
    found = await asyncio.gather(*[bench.auth.authenticate(secret) for _ in range(100)])
    assert len(set(found)) == 1
    assert bench.queries == 1


async def test_caller_that_goes_away_stops_nobody_else(bench: Bench) -> None:
    _, secret = await bench.add()
    first = asyncio.create_task(bench.auth.authenticate(secret))
    second = asyncio.create_task(bench.auth.authenticate(secret))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).key_label == "quickstart"
    with pytest.raises(asyncio.CancelledError):
        await first
    assert bench.queries == 1


async def test_flood_of_made_up_keys_is_bounded_and_pushes_no_good_key_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_MAX_UNKNOWN_KEYS", 50)
    _, secret = await bench.add()
    await bench.auth.authenticate(secret)
    outcomes = await asyncio.gather(
        *[bench.auth.authenticate(new_key_secret()) for _ in range(300)], return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {Unauthenticated}
    assert len(bench.auth._unknown_keys) == 50
    assert bench.auth._lookups == {}
    queries = bench.queries
    await bench.auth.authenticate(secret)
    assert bench.queries == queries


async def test_known_keys_are_bounded_too(bench: Bench) -> None:
    bench.auth._known = BoundedCache(4)
    secrets = [(await bench.add())[1] for _ in range(5)]
    for secret in secrets:
        await bench.auth.authenticate(secret)
    assert len(bench.auth._known) <= 4
    queries = bench.queries
    await bench.auth.authenticate(secrets[-1])
    assert bench.queries == queries
    await bench.auth.authenticate(secrets[0])
    assert bench.queries == queries + 1


async def test_entry_found_by_chance_is_compared_in_full(bench: Bench) -> None:
    _, secret = await bench.add()
    await bench.auth.authenticate(secret)
    ((_, known),) = bench.auth._known.items()
    other = new_key_secret()
    bench.auth._known.put(load_pepper(bench.settings).digest(other), known)
    assert await bench.reason(other) == "invalid_api_key"


async def test_start_needs_the_schema(tmp_path: Path) -> None:
    authenticator = Authenticator(bench_settings(tmp_path / "data"))
    with pytest.raises(StoreError, match="run `orchestrator migrate`"):
        await authenticator.start()


async def test_last_use_is_written_at_close_and_counts_good_keys_only(bench: Bench) -> None:
    used, secret = await bench.add()
    unused, _ = await bench.add()
    expired, expired_secret = await bench.add(expires_at=5)
    await bench.auth.authenticate(secret)
    assert await bench.reason(expired_secret) == "key_expired"
    await bench.auth.close()
    async with bench.database.reading() as session:
        last = {key.id: key.last_used_at for key in await key_queries.listed(session)}
    assert last == {used: int(bench.wall.at), unused: None, expired: None}


async def test_secrets_are_in_no_log_and_no_repr(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _, secret = await bench.add()
    stranger = new_key_secret()
    principal = await bench.auth.authenticate(secret)
    reasons = []
    for text in (stranger, stranger + "x"):
        with pytest.raises(Unauthenticated) as caught:
            await bench.auth.authenticate(text)
        reasons.append(str(caught.value))
    with bench.table_gone():
        bench.monotonic.at += CACHE_S
        await bench.auth.authenticate(secret)
        assert await bench.is_unavailable(stranger)
    seen = caplog.text + repr(principal) + repr(vars(bench.auth)) + "".join(reasons)
    for text in (secret, stranger, "a pepper for tests only"):
        assert text not in seen
        assert text[13:] not in seen


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    secret=st.text(max_size=60)
    | st.from_regex(r"op_live_[0-9a-f]{4}_[0-9a-f]{32}", fullmatch=True)
    | st.text("op_live0123456789abcdef", min_size=40, max_size=50)
)
def test_no_made_up_key_is_ever_let_in(stranger_door: _Door, secret: str) -> None:
    with pytest.raises(Unauthenticated):
        stranger_door.knock(secret)


class _Door:
    """An authenticator over a store with some keys, driven from outside a loop."""

    def __init__(self, data_dir: Path) -> None:
        self.runner = asyncio.Runner()
        settings = bench_settings(data_dir)
        self.runner.run(migrate(settings))
        self.bench = Bench(settings)
        for _ in range(5):
            self.runner.run(self.bench.add())
        self.runner.run(self.bench.auth.start())

    def knock(self, secret: str) -> None:
        self.runner.run(self.bench.auth.authenticate(secret))

    def close(self) -> None:
        self.runner.run(self.bench.auth.close())
        self.runner.run(self.bench.database.close())
        self.runner.close()


@pytest.fixture(scope="module")
def stranger_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Door]:
    door = _Door(tmp_path_factory.mktemp("door") / "data")
    yield door
    door.close()
