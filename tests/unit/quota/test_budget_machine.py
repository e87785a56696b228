"""Any order of reserving, settling, cancelling and restarting keeps a budget, to the token."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from pydantic import SecretStr

from orchestrator.core.errors import RateLimited
from orchestrator.core.limits import Limits
from orchestrator.quota import Admission
from orchestrator.quota.counters import Counter, utc_day
from orchestrator.quota.limiter import Limiter
from orchestrator.quota.memory import MemoryCounters
from orchestrator.quota.token_journal import TokenJournal
from orchestrator.settings import SecuritySettings, Settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from tests.unit.quota.clock import Clock, caller

pytestmark = pytest.mark.slow

KEY_BUDGET, TENANT_BUDGET, AT_ONCE = 100, 150, 4
WHO = [
    caller(Limits(tpd=KEY_BUDGET, concurrency=AT_ONCE), Limits(tpd=TENANT_BUDGET), key_id=name)
    for name in ("key_1", "key_2")
]
Running = tuple[Admission, str, int]


class Budget(RuleBasedStateMachine):
    """The model: what is used, and what running requests hold, of two keys of one tenant."""

    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.day = utc_day(self.clock())
        self.used = {"key_1": 0, "key_2": 0}
        self.held: dict[int, tuple[str, int]] = {}
        self.loop.run_until_complete(self._open(first=True))

    async def _open(self, *, first: bool = False) -> None:
        tree = Settings(
            data_dir=self.folder, security=SecuritySettings(pepper=SecretStr("for tests only!!"))
        )
        if first:
            await migrate(tree)
        self.database = Database(tree)
        journal = TokenJournal(self.folder / "quota", self.database, now=self.clock)
        self.counters = MemoryCounters(journal, now=self.clock)
        await self.counters.start()
        self.limiter = Limiter(self.counters, now=self.clock)

    async def _close(self) -> None:
        await self.counters.close()
        await self.database.close()

    @rule(
        target=running,
        who=strategies.sampled_from(WHO),
        tokens=strategies.integers(1, 120),
    )
    def reserve(self, who: object, tokens: int) -> Running | None:
        caller_ = next(one for one in WHO if one is who)
        name = caller_.key_id
        outlook = self.loop.run_until_complete(self.limiter.outlook(caller_, "chat", tokens))
        held = sum(amount for key, amount in self.held.values() if key == name)
        all_held = sum(amount for _, amount in self.held.values())
        fits = (
            sum(key == name for key, _ in self.held.values()) < AT_ONCE
            and self.used[name] + held + tokens <= KEY_BUDGET
            and sum(self.used.values()) + all_held + tokens <= TENANT_BUDGET
        )
        try:
            admission = self.loop.run_until_complete(self._reserve(caller_, tokens))
        except RateLimited as error:
            assert not fits
            assert outlook.refusal is not None
            assert outlook.refusal.message == str(error)  # noqa: PT017  # either way is checked
            return None
        assert fits
        assert outlook.refusal is None
        self.held[id(admission)] = (name, tokens)
        return admission, name, tokens

    async def _reserve(self, who: object, tokens: int) -> Admission:
        admission = await self.limiter.admit(next(one for one in WHO if one is who), "chat")
        await admission.reserve(tokens)
        return admission

    @rule(request=consumes(running), share=strategies.floats(0, 1))
    def settle(self, request: Running | None, share: float) -> None:
        if request is None or id(request[0]) not in self.held:
            return
        admission, name, tokens = request
        produced = int(tokens * share)
        self.loop.run_until_complete(admission.settle(produced))
        del self.held[id(admission)]
        self.used[name] += produced

    @rule(request=consumes(running))
    def cancel(self, request: Running | None) -> None:
        if request is None or id(request[0]) not in self.held:
            return
        self.loop.run_until_complete(request[0].cancel())
        del self.held[id(request[0])]

    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self._close())
        self.held.clear()
        self.loop.run_until_complete(self._open())

    @invariant()
    def nothing_overshoots(self) -> None:
        for name, used in self.used.items():
            counter = Counter("tpd", "key", name, self.day)
            held = sum(amount for key, amount in self.held.values() if key == name)
            assert self.counters.held.get(counter, 0) == held
            assert used + held <= KEY_BUDGET
        assert sum(self.used.values()) <= TENANT_BUDGET

    def teardown(self) -> None:
        self.loop.run_until_complete(self._close())
        self.loop.close()
        shutil.rmtree(self.folder)


Budget.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestBudget = Budget.TestCase
