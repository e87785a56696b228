"""Decisions as they are shown to managers of policies: over HTTP and on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.policy import Decision
from orchestrator.policy.decisions import RecordedDecision
from orchestrator.policy.service import Changed


def decision_object(decision: Decision) -> dict[str, Any]:
    """Returns a decision as it is shown."""
    return {
        "allow": decision.allow,
        "rule": decision.rule,
        "reason": decision.reason,
        "word": decision.word,
        "routes": list(decision.routes),
    }


def recorded_object(one: RecordedDecision) -> dict[str, Any]:
    """Returns a recorded decision as it is shown."""
    shadow = None
    if one.shadow_version is not None:
        shadow = {
            "version": one.shadow_version,
            "allow": one.shadow_allow,
            "rule": one.shadow_rule,
        }
    return {
        "id": one.id,
        "object": "policy_decision",
        "at": one.at / 1000,
        "key_id": one.key_id,
        "version": one.version,
        "input": dict(one.facts),
        "allow": one.allow,
        "rule": one.rule,
        "reason": one.reason,
        "shadow": shadow,
    }


def replay_object(checked: int, changed: Sequence[Changed]) -> dict[str, Any]:
    """Returns the result of a replay as it is shown."""
    return {
        "object": "policy_replay",
        "checked": checked,
        "changed": [
            {**recorded_object(one.recorded), "after": decision_object(one.after)}
            for one in changed
        ],
    }
