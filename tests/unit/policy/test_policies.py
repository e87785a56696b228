"""Which version is in force, how soon a change is, and what an outage of the store does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace
from pydantic import SecretStr
from sqlmodel.ext.asyncio.session import AsyncSession

from orchestrator.core.actor import Actor
from orchestrator.core.errors import Conflict, PolicyUnavailable
from orchestrator.keys import tenants
from orchestrator.keys.queries import NewKey, create
from orchestrator.keys.secret import load_pepper, new_key_secret
from orchestrator.policy import decisions
from orchestrator.policy import queries as policy_queries
from orchestrator.policy.candidates import Candidates
from orchestrator.policy.embedded import EmbeddedRego
from orchestrator.policy.engine import RegoPolicies
from orchestrator.policy.in_force import Policies
from orchestrator.policy.recorder import Recorder
from orchestrator.policy.service import Change, PolicyAdmin
from orchestrator.settings import SecuritySettings, Settings
from orchestrator.store.database import Database, StoreError
from orchestrator.store.migrate import migrate
from tests.unit.policy.facts import HEAD, NOON, asked, new_evaluators, version

pytestmark = pytest.mark.slow

BY = Actor("key:key_1")


class SwitchedDatabase(Database):
    """A database that can be out of reach or hang, and counts how often it is read."""

    down = False
    hangs_until: asyncio.Event | None = None
    reads = 0

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        self.reads += 1
        if self.hangs_until is not None:
            await self.hangs_until.wait()
        if self.down:
            raise StoreError("the store is away")
        async with super().reading() as session:
            yield session

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[AsyncSession]:
        if self.down:
            raise StoreError("the store is away")
        async with super().unit_of_work() as session:
            yield session


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    """One process with policies, and an administrator in another one."""

    database: SwitchedDatabase
    tenant: str
    settings: Settings
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.evaluators = new_evaluators()
        candidates = Candidates(self.evaluators, timeout_s=5)
        self.elsewhere = PolicyAdmin(Database(self.settings), candidates)
        self.evaluator = EmbeddedRego(self.evaluators, timeout_s=5)
        self.policies = Policies(self.database, fresh_s=1, timeout_s=0.5, monotonic=self.clock)
        self.engine = RegoPolicies(self.policies, self.evaluator)
        self.here = PolicyAdmin(self.database, candidates, self.engine)

    async def rule(self, policy_id: str = "pol_default", **facts: Any) -> str:
        """Which rule decides now."""
        question = asked(tenant_id=self.tenant, policy_id=policy_id, **facts)
        return (await self.engine.decide(replace(question, at=None))).rule

    async def close(self) -> None:
        await self.engine.close()
        await self.evaluators.close()
        await self.elsewhere._database.close()


@pytest_asyncio.fixture(params=["sqlite", "postgresql"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").new_database()
    settings = Settings(
        data_dir=tmp_path / "data",
        security=SecuritySettings(pepper=SecretStr("a pepper for tests only")),
    )
    settings = settings.model_copy(update={"store": settings.store.model_copy(update={"url": url})})
    await migrate(settings)
    database = SwitchedDatabase(settings)
    async with database.unit_of_work() as session:
        tenant = (await tenants.ensure(session, "acme", 1)).id
    made = Bench(database, tenant, settings)
    yield made
    await made.close()
    await database.close()


async def test_a_change_here_counts_at_once_and_one_elsewhere_within_a_second(
    bench: Bench,
) -> None:
    assert await bench.rule() == "allowed"
    change = Change(document={"api_disabled": True})
    await bench.here.update(bench.tenant, "pol_default", change, BY)
    assert await bench.rule() == "api_disabled"
    await bench.elsewhere.update(bench.tenant, "pol_default", Change(active=1), BY)
    bench.clock.now += 0.4
    assert await bench.rule() == "api_disabled"
    bench.clock.now += 0.6
    assert await bench.rule() == "allowed"


async def test_a_request_asks_the_store_for_nothing_while_the_answer_is_young(
    bench: Bench,
) -> None:
    await bench.rule()
    reads = bench.database.reads
    for _ in range(100):
        await bench.rule()
    assert bench.database.reads == reads
    # Past half of the time the next answer is fetched, by nobody who waits for it.
    bench.database.hangs_until = asyncio.Event()
    bench.clock.now += 0.6
    assert await bench.rule() == "allowed"
    # Who waits in vain takes the store for down.
    assert not bench.policies._down
    bench.database.hangs_until.set()
    await bench.policies.close()
    assert bench.database.reads == reads + 1


async def test_the_last_known_version_stays_in_force_while_the_store_is_away(
    bench: Bench,
) -> None:
    change = Change(document={"api_disabled": True})
    await bench.here.update(bench.tenant, "pol_default", change, BY)
    assert await bench.rule() == "api_disabled"
    bench.database.down = True
    for _ in range(3):
        bench.clock.now += 3600
        assert await bench.rule() == "api_disabled"
    with pytest.raises(PolicyUnavailable):
        await bench.rule("pol_never_read")
    bench.database.down = False
    await bench.elsewhere.update(bench.tenant, "pol_default", Change(active=1), BY)
    bench.clock.now += 1
    await bench.rule()
    await bench.policies.close()
    bench.clock.now += 1
    assert await bench.rule() == "allowed"


async def test_a_store_that_hangs_is_waited_for_once(bench: Bench) -> None:
    assert await bench.rule() == "allowed"
    bench.database.hangs_until = asyncio.Event()
    bench.clock.now += 10
    async with asyncio.timeout(60):
        assert await bench.rule() == "allowed"
    reads = bench.database.reads
    # Half of what they would take if each of them waited.
    async with asyncio.timeout(100):
        for _ in range(400):
            assert await bench.rule() == "allowed"
    assert bench.database.reads == reads
    with pytest.raises(PolicyUnavailable):
        await bench.rule("pol_never_read")
    bench.database.hangs_until.set()


async def test_a_policy_that_is_gone_refuses(bench: Bench) -> None:
    made = await bench.here.create(bench.tenant, "ours", {}, None, BY)
    assert await bench.rule(made.id) == "allowed"
    await bench.here.delete(bench.tenant, made.id, BY)
    assert await bench.rule(made.id) == "policy_missing"
    assert await bench.rule("pol_of_nobody") == "policy_missing"


async def test_a_version_that_cannot_be_read_refuses_its_own_keys_only(bench: Bench) -> None:
    made = await bench.here.create(bench.tenant, "ours", {}, None, BY)
    broken = policy_queries.NewVersion({"from_the_future": 1}, None, "system", 1)
    async with bench.database.unit_of_work() as session:
        number = await policy_queries.add_version(session, bench.tenant, made.id, broken)
        await policy_queries.update(
            session, bench.tenant, made.id, name="ours", active=number, candidate=None
        )
    with pytest.raises(PolicyUnavailable):
        await bench.rule(made.id)
    assert await bench.rule() == "allowed"


async def test_versions_written_at_once_get_numbers_of_their_own(bench: Bench) -> None:
    made = await bench.here.create(bench.tenant, "ours", {}, None, BY)
    admins = [bench.here, bench.elsewhere] * 4
    views = await asyncio.gather(
        *(
            admin.update(
                bench.tenant, made.id, Change(document={"limits": {"rpm": number + 1}}), BY
            )
            for number, admin in enumerate(admins)
        )
    )
    assert sorted(view.written.version for view in views) == list(range(2, 10))
    for view in views:
        old = await bench.here.get(bench.tenant, made.id, view.written.version)
        assert old.written.document == view.written.document


async def test_changes_of_different_halves_at_once_are_both_kept(bench: Bench) -> None:
    module = HEAD + 'deny contains "no" if input.model.id == "a"\n'
    for policy_id in ("pol_default", (await bench.here.create(bench.tenant, "o", {}, None, BY)).id):
        await asyncio.gather(
            bench.here.update(bench.tenant, policy_id, Change(document={"limits": {"rpm": 7}}), BY),
            bench.elsewhere.update(bench.tenant, policy_id, Change(module=module), BY),
            bench.elsewhere.update(bench.tenant, policy_id, Change(name="named"), BY),
        )
        after = await bench.here.get(bench.tenant, policy_id)
        assert (after.written.document, after.written.module, after.head.name) == (
            {"limits": {"rpm": 7}},
            module,
            "named",
        )


async def test_a_question_that_is_put_again_is_decided_by_the_version_in_force(
    bench: Bench,
) -> None:
    question = replace(asked(tenant_id=bench.tenant, policy_id="pol_default"), at=None)
    first = await bench.engine.decide(question)
    assert await bench.engine.decide(question) is first
    assert bench.engine.tally.hits == 1
    change = Change(document={"api_disabled": True})
    await bench.here.update(bench.tenant, "pol_default", change, BY)
    assert (await bench.engine.decide(question)).rule == "api_disabled"


async def test_a_question_that_is_put_again_is_decided_by_the_time(bench: Bench) -> None:
    window = {"days": ["wed"], "from": "08:00", "to": "12:30", "timezone": "UTC"}
    made = await bench.here.create(bench.tenant, "hours", {"time_window": window}, None, BY)
    now = Clock(NOON)
    engine = RegoPolicies(bench.policies, bench.evaluator, now=now)
    question = replace(asked(tenant_id=bench.tenant, policy_id=made.id), at=None)
    assert (await engine.decide(question)).rule == "allowed"
    now.now += 3600
    assert (await engine.decide(question)).allow is False


async def test_a_policy_of_a_key_cannot_be_deleted(bench: Bench) -> None:
    made = await bench.here.create(bench.tenant, "ours", {}, None, BY)
    async with bench.database.unit_of_work() as session:
        new = NewKey(label="x", tenant_id=bench.tenant, policy_id=made.id)
        await create(session, new, new_key_secret(), load_pepper(bench.settings), 1)
    with pytest.raises(Conflict, match="1 key"):
        await bench.here.delete(bench.tenant, made.id, BY)
    assert await bench.rule(made.id) == "allowed"


async def test_a_share_of_all_decisions_is_recorded_and_nothing_is_lost_in_an_outage(
    bench: Bench,
) -> None:
    random.seed(3)
    recorder = Recorder(
        bench.database, bench.evaluator, share=0.5, keep_s=3600, most_waiting=10_000
    )
    recorder.start()
    engine = RegoPolicies(bench.policies, bench.evaluator, recorder)
    await engine.decide(replace(asked(tenant_id=bench.tenant), at=None))
    bench.database.down = True
    for _ in range(199):
        await engine.decide(replace(asked(tenant_id=bench.tenant), at=None))
    await asyncio.sleep(0.5)
    bench.database.down = False
    await recorder.close()
    async with bench.database.reading() as session:
        found = await decisions.listed(session, bench.tenant, "pol_1", most=1000)
        found += await decisions.listed(session, bench.tenant, "pol_default", most=1000)
    assert 60 < len(found) < 140
    assert recorder.lost == 0


async def test_a_full_queue_loses_records_and_delays_nobody(bench: Bench) -> None:
    recorder = Recorder(bench.database, bench.evaluator, share=1, keep_s=3600, most_waiting=10)
    engine = RegoPolicies(bench.policies, bench.evaluator, recorder)
    for _ in range(25):
        await engine.decide(replace(asked(tenant_id=bench.tenant), at=None))
    assert recorder.lost == 15


async def test_old_records_are_forgotten(bench: Bench) -> None:
    recorder = Recorder(bench.database, bench.evaluator, share=1, keep_s=3600, most_waiting=10)
    recorder.start()
    decision = await bench.evaluator.decide(version(), asked())
    question = replace(asked(tenant_id=bench.tenant), at=None)
    recorder.note(question, decision, None, 1.0)
    await asyncio.sleep(0.6)
    recorder._pruned_at = 0
    recorder.note(question, decision, None, 4e9)
    await recorder.close()
    async with bench.database.reading() as session:
        found = await decisions.listed(session, bench.tenant, "pol_1")
    assert [one.at for one in found] == [4_000_000_000_000]


async def test_a_slow_candidate_of_one_tenant_keeps_no_records_of_another_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.policy.recorder._JUDGED_S", 0.5)
    recorder = Recorder(bench.database, bench.evaluator, share=1, keep_s=3600, most_waiting=1000)
    numbers = ", ".join(str(number) for number in range(20))
    four = "; ".join(f"some {name} in nums" for name in "abc")
    slow = version(f'deny contains "x" if {{ nums := [{numbers}]; {four}; a + b + c > 99 }}')
    decision = await bench.evaluator.decide(version(), asked())
    for number in range(100):
        question = replace(asked(tenant_id="ten_slow", key_id=f"key_{number}"), at=None)
        recorder.note(question, decision, slow, 1_795_003_200.0)
    recorder.note(replace(asked(tenant_id=bench.tenant), at=None), decision, None, 4e9)
    recorder.start()
    # Longer than the end of the recorder would wait for it on a busy machine.
    for _ in range(600):
        async with bench.database.reading() as session:
            found = await decisions.listed(session, bench.tenant, decision.policy_id, most=10)
        if found:
            break
        await asyncio.sleep(0.1)
    await recorder.close()
    assert len(found) == 1
