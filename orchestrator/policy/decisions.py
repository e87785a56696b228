"""Queries about recorded decisions. Their inputs hold no prompt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete
from sqlmodel import col, select

from orchestrator.store.database import Session
from orchestrator.store.tables import StoredDecision


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """A decision, and what the candidate at that time would have decided. `at` is in
    milliseconds.
    """

    id: str
    at: int
    tenant_id: str
    key_id: str
    policy_id: str
    version: int
    facts: Mapping[str, Any]
    allow: bool
    rule: str
    reason: str
    shadow_version: int | None = None
    shadow_allow: bool | None = None
    shadow_rule: str | None = None


async def add(session: Session, decisions: Sequence[RecordedDecision]) -> None:
    """Stores `decisions`."""
    session.add_all(
        StoredDecision(
            id=one.id,
            at=one.at,
            tenant_id=one.tenant_id,
            key_id=one.key_id,
            policy_id=one.policy_id,
            policy_version=one.version,
            input=dict(one.facts),
            allow=one.allow,
            rule=one.rule,
            reason=one.reason,
            shadow_version=one.shadow_version,
            shadow_allow=one.shadow_allow,
            shadow_rule=one.shadow_rule,
        )
        for one in decisions
    )
    await session.flush()


async def listed(
    session: Session,
    tenant_id: str,
    policy_id: str,
    *,
    since: int = 0,
    most: int = 1000,
    differing: bool = False,
) -> list[RecordedDecision]:
    """Returns the newest decisions since `since` (ms); if `differing`, where the shadow differs."""
    query = select(StoredDecision).where(
        StoredDecision.tenant_id == tenant_id,
        StoredDecision.policy_id == policy_id,
        StoredDecision.at >= since,
    )
    if differing:
        query = query.where(
            (col(StoredDecision.shadow_allow) != col(StoredDecision.allow))
            | (col(StoredDecision.shadow_rule) != col(StoredDecision.rule))
        )
    order = (col(StoredDecision.at).desc(), col(StoredDecision.id).desc())
    return [_value(row) for row in await session.exec(query.order_by(*order).limit(most))]


async def prune(session: Session, before: int) -> None:
    """Deletes decisions made before `before` (ms)."""
    await session.exec(delete(StoredDecision).where(col(StoredDecision.at) < before))


def _value(row: StoredDecision) -> RecordedDecision:
    return RecordedDecision(
        id=row.id,
        at=row.at,
        tenant_id=row.tenant_id,
        key_id=row.key_id,
        policy_id=row.policy_id,
        version=row.policy_version,
        facts=row.input,
        allow=row.allow,
        rule=row.rule,
        reason=row.reason,
        shadow_version=row.shadow_version,
        shadow_allow=row.shadow_allow,
        shadow_rule=row.shadow_rule,
    )
