"""The order of the examination: the machine, the models, what they need, the running appliance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from orchestrator.doctor import engines, machine, ports, services
from orchestrator.doctor.finding import Finding, failed
from orchestrator.settings import Settings

Check = Callable[[], Finding | Sequence[Finding]]


async def examine(settings: Settings, *, deep: bool) -> list[Finding]:
    """Returns every finding, in order. `deep` reads whole artefacts."""
    findings: list[Finding] = []
    on_machine: list[tuple[str, Check]] = [
        ("python", machine.python),
        ("clock", machine.clock),
        ("memory", lambda: machine.memory(settings)),
        ("disk", lambda: machine.disk(settings)),
        ("gpu", machine.gpu),
        ("ports", lambda: ports.ports(settings)),
        ("triton", lambda: engines.server(settings)),
        ("models", lambda: engines.models(settings, deep=deep)),
    ]
    for subject, check in on_machine:
        findings += await asyncio.to_thread(_guarded, subject, check)
    for look in (
        services.store,
        services.redis,
        services.policy,
        services.collector,
        services.remote_triton,
        services.appliance,
    ):
        findings += await look(settings)
    return findings


def _guarded(subject: str, check: Check) -> Sequence[Finding]:
    """Turns a check that fails to run into a finding, so that the other checks still run."""
    try:
        found = check()
    except OSError as error:
        return [failed(subject, f"cannot be looked at: {error}", "look at the rights of that file")]
    return [found] if isinstance(found, Finding) else found
