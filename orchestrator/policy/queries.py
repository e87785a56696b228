"""Queries about policies. `pol_default` exists for every tenant, with or without a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func
from sqlmodel import col, select

from orchestrator.core.ids import new_id
from orchestrator.store.database import Session
from orchestrator.store.tables import DEFAULT_POLICY_ID, Policy, PolicyVersion, VirtualKey

DEFAULT_NAME = "default"


@dataclass(frozen=True, slots=True)
class PolicyHead:
    """A policy's name and which of its versions are in force and in shadow."""

    active: int
    candidate: int | None
    name: str
    created_at: int


@dataclass(frozen=True, slots=True)
class WrittenVersion:
    """One stored version."""

    version: int
    document: Mapping[str, Any]
    module: str | None
    created_at: int
    created_by: str


@dataclass(frozen=True, slots=True)
class NewVersion:
    """The content of a new version, who wrote it and when (seconds since the epoch)."""

    document: Mapping[str, Any]
    module: str | None
    created_by: str
    now: int


BUILT_IN = PolicyHead(1, None, DEFAULT_NAME, 0)
_BUILT_IN_VERSION = WrittenVersion(1, {}, None, 0, "system")


async def head(session: Session, tenant_id: str, policy_id: str) -> PolicyHead | None:
    """Returns the policy's head, or `None` when the tenant has no such policy."""
    row = await session.get(Policy, (tenant_id, policy_id))
    if row is not None and row.deleted_at is None:
        return PolicyHead(row.active_version, row.candidate_version, row.name, row.created_at)
    return BUILT_IN if row is None and policy_id == DEFAULT_POLICY_ID else None


async def exists(session: Session, tenant_id: str, policy_id: str) -> bool:
    """Whether the tenant has that policy; locks it until the caller's transaction ends."""
    row = await session.get(Policy, (tenant_id, policy_id), with_for_update={"read": True})
    if row is None:
        return policy_id == DEFAULT_POLICY_ID
    return row.deleted_at is None


async def version(
    session: Session, tenant_id: str, policy_id: str, number: int
) -> WrittenVersion | None:
    """Returns that version of a policy, also the built-in one."""
    row = await session.get(PolicyVersion, (tenant_id, policy_id, number))
    if row is not None:
        return WrittenVersion(row.version, row.document, row.module, row.created_at, row.created_by)
    if policy_id == DEFAULT_POLICY_ID and number == 1:
        return _BUILT_IN_VERSION
    return None


async def listed(session: Session, tenant_id: str) -> Sequence[tuple[str, PolicyHead]]:
    """Returns the tenant's policies with their ids: the default one, then the others by age."""
    rows = await session.exec(
        select(Policy)
        .where(Policy.tenant_id == tenant_id, col(Policy.deleted_at).is_(None))
        .order_by(col(Policy.created_at), col(Policy.id))
    )
    heads = {
        row.id: PolicyHead(row.active_version, row.candidate_version, row.name, row.created_at)
        for row in rows
    }
    default = heads.pop(DEFAULT_POLICY_ID, BUILT_IN)
    return [(DEFAULT_POLICY_ID, default), *heads.items()]


async def create(session: Session, tenant_id: str, name: str, new: NewVersion) -> str:
    """Adds a policy and its version 1. Returns its id."""
    policy_id = new_id("pol")
    row = Policy(tenant_id=tenant_id, id=policy_id, name=name, active_version=1, created_at=new.now)
    session.add(row)
    await session.flush()
    await _write(session, tenant_id, policy_id, 1, new)
    return policy_id


async def add_version(session: Session, tenant_id: str, policy_id: str, new: NewVersion) -> int:
    """Adds a version that is neither in force nor in shadow yet. Returns its number."""
    await _locked(session, tenant_id, policy_id)
    largest = (
        await session.exec(
            select(func.max(PolicyVersion.version)).where(
                PolicyVersion.tenant_id == tenant_id, PolicyVersion.policy_id == policy_id
            )
        )
    ).one()
    number = (largest or 1) + 1
    await _write(session, tenant_id, policy_id, number, new)
    return number


async def update(
    session: Session,
    tenant_id: str,
    policy_id: str,
    *,
    name: str,
    active: int,
    candidate: int | None,
) -> None:
    """Sets the versions in force and in shadow, and the policy's name."""
    row = await _locked(session, tenant_id, policy_id)
    row.name, row.active_version, row.candidate_version = name, active, candidate
    await session.flush()


async def keys_using(session: Session, tenant_id: str, policy_id: str) -> int:
    """Returns the number of keys with this policy, without revoked ones."""
    query = select(func.count()).where(
        VirtualKey.tenant_id == tenant_id,
        VirtualKey.policy_id == policy_id,
        VirtualKey.status == "active",
    )
    return (await session.exec(query)).one()


async def delete(session: Session, tenant_id: str, policy_id: str, now: int) -> None:
    """Marks a policy as deleted; its versions stay, because recorded decisions refer to them."""
    row = await _locked(session, tenant_id, policy_id)
    row.deleted_at = now
    await session.flush()


async def _locked(session: Session, tenant_id: str, policy_id: str) -> Policy:
    """Returns the row, locked until the transaction ends; creates a missing default's row."""
    row = await session.get(Policy, (tenant_id, policy_id), with_for_update=True)
    if row is None:
        row = Policy(
            tenant_id=tenant_id,
            id=policy_id,
            name=DEFAULT_NAME,
            active_version=1,
            created_at=0,
        )
        session.add(row)
        await session.flush()
        built_in = NewVersion(_BUILT_IN_VERSION.document, None, _BUILT_IN_VERSION.created_by, 0)
        await _write(session, tenant_id, policy_id, 1, built_in)
    return row


async def _write(
    session: Session, tenant_id: str, policy_id: str, number: int, new: NewVersion
) -> None:
    session.add(
        PolicyVersion(
            tenant_id=tenant_id,
            policy_id=policy_id,
            version=number,
            document=dict(new.document),
            module=new.module,
            created_at=new.now,
            created_by=new.created_by,
        )
    )
    await session.flush()
