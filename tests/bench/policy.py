"""What a decision costs: remembered, evaluated, with an operator's module; with the recorder."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from pydantic import SecretStr

from orchestrator.core.actor import Actor
from orchestrator.keys import tenants
from orchestrator.policy import PolicyInput
from orchestrator.policy.engine import RegoPolicies
from orchestrator.policy.service import PolicyAdmin
from orchestrator.policy.start import new_candidates, new_evaluators, start_policies
from orchestrator.settings import PolicySettings, SecuritySettings, Settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate

ROUNDS = 2000
MODULE = """package gateway.custom

import rego.v1

deny contains "No chat at night." if {
	input.model.task == "generate"
	input.time.hour < 5
}
"""


async def report(folder: Path) -> dict[str, Any]:
    """Microseconds for each decision, as the gateway sees them: store, cache and Rego together."""
    settings = Settings(
        data_dir=folder / "policy",
        security=SecuritySettings(pepper=SecretStr("a pepper for the bench")),
        policy=PolicySettings(timeout_s=5, record_share=0),
    )
    await migrate(settings)
    database = Database(settings)
    async with database.unit_of_work() as session:
        tenant = (await tenants.ensure(session, "bench", 1)).id
    evaluators = new_evaluators(settings)
    engine = start_policies(settings, database, evaluators)
    admin = PolicyAdmin(database, new_candidates(settings, evaluators), engine)
    by = Actor("system:bench")
    document = {"limits": {"rpm": 60}, "client_networks": ["10.0.0.0/8"]}
    plain = (await admin.create(tenant, "plain", document, None, by)).id
    own = (await admin.create(tenant, "own", document, MODULE, by)).id
    figures = {}
    for name, policy_id, differs in (
        ("same request again", plain, False),
        ("every request another", plain, True),
        ("own module, same request again", own, False),
        ("own module, every request another", own, True),
    ):
        asked = PolicyInput(
            "key_1", tenant, "demo/chat", "generate", "local-only", "10.1.2.3",
            policy_id=policy_id, model_names=("demo/chat",), requested="demo/chat",
        )  # fmt: skip
        figures[name] = await _measured(_ask(engine, asked, differs=differs))
    await engine.close()
    await evaluators.close()
    await database.close()
    return figures


def _ask(
    engine: RegoPolicies, asked: PolicyInput, *, differs: bool
) -> Callable[[int], Awaitable[None]]:
    async def one(number: int) -> None:
        question = replace(asked, key_id=f"key_{number}") if differs else asked
        decision = await engine.decide(question)
        assert decision.rule in ("allowed", "custom"), decision

    return one


async def _measured(work: Callable[[int], Awaitable[None]]) -> dict[str, float]:
    """p50 and p99 in microseconds."""
    for number in range(50):
        await work(-number)
    times = []
    for number in range(ROUNDS):
        began_at = time.perf_counter()
        await work(number + 1)
        times.append((time.perf_counter() - began_at) * 1e6)
    cuts = statistics.quantiles(times, n=100)
    return {"p50_us": round(cuts[49], 1), "p99_us": round(cuts[98], 1)}
