"""Short ways to a policy and to a question."""

from __future__ import annotations

from typing import Any

from orchestrator.policy import PolicyInput
from orchestrator.policy.inputs import PolicyVersion, from_facts, version_of

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
