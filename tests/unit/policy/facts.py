"""Short ways to a policy and to a question."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from orchestrator.policy import PolicyInput
from orchestrator.policy.embedded import EmbeddedRego, gateway_rules
from orchestrator.policy.question import PolicyVersion, from_facts, version_of
from orchestrator.rego.pool import Evaluators

NOON = 1_795_003_200.0
"""Wednesday 2026-11-18, 12:00 UTC."""
HEAD = "package gateway.custom\n\nimport rego.v1\n\n"


def version(module: str | None = None, number: int = 1, **document: Any) -> PolicyVersion:
    """A version with that document; the head of `module` is added."""
    return version_of("pol_1", number, document, None if module is None else HEAD + module)


def asked(**facts: Any) -> PolicyInput:
    """A question about `acme/chat`, at noon."""
    return from_facts(
        {
            "key_id": "key_1",
            "key_label": "quickstart",
            "tenant_id": "ten_1",
            "model": "acme/chat",
            "model_names": ["acme/chat", "chat"],
            "requested": "acme/chat",
            "client_ip": "10.1.2.3",
            "at": NOON,
            **facts,
        }
    )


def new_evaluators(places: int = 2, memory_mb: int = 256, idle_s: float = 60) -> Evaluators:
    """Processes with the rules of the product; to be closed."""
    return Evaluators(gateway_rules(), places=places, memory_bytes=memory_mb * 2**20, idle_s=idle_s)


@asynccontextmanager
async def embedded(timeout_s: float = 5, memory_mb: int = 256) -> AsyncIterator[EmbeddedRego]:
    """An evaluator with processes of its own."""
    evaluators = new_evaluators(memory_mb=memory_mb)
    rego = EmbeddedRego(evaluators, timeout_s=timeout_s)
    try:
        yield rego
    finally:
        await rego.close()
        await evaluators.close()
