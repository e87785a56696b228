"""Queries about tenants."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import col, select

from orchestrator.core.ids import new_id
from orchestrator.store.database import Session, turn
from orchestrator.store.tables import Tenant


async def get(session: Session, tenant_id: str, *, to_write: bool = False) -> Tenant | None:
    """Returns the tenant of that id. `to_write` locks its row."""
    return await session.get(Tenant, tenant_id, with_for_update=True if to_write else None)


async def find(session: Session, name_or_id: str) -> Tenant | None:
    """Returns the tenant of that id, or else of that name."""
    by_id = await session.get(Tenant, name_or_id)
    if by_id is not None:
        return by_id
    return (await session.exec(select(Tenant).where(Tenant.name == name_or_id))).one_or_none()


async def ensure(session: Session, name: str, now: int) -> Tenant:
    """Returns the tenant of that name or id; creates it if there is none."""
    tenant = await find(session, name)
    if tenant is None:
        await turn(session, "tenants")
        tenant = await find(session, name)
    if tenant is None:
        tenant = Tenant(id=new_id("ten"), name=name, created_at=now)
        session.add(tenant)
        await session.flush()
    return tenant


async def listed(session: Session) -> Sequence[Tenant]:
    """Returns all tenants by name."""
    return (await session.exec(select(Tenant).order_by(col(Tenant.name)))).all()
