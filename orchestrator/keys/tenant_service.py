"""The rules for managing tenants. Each change is one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.audit import log as audit_log
from orchestrator.core.actor import Actor
from orchestrator.core.errors import NotFound
from orchestrator.keys import tenants
from orchestrator.store.database import Database
from orchestrator.store.tables import Tenant

LIMITS = ("rpm_limit", "images_rpm_limit", "tpd_limit", "concurrency_limit")
CLEARABLE = (*LIMITS, "plan")
"""The values of a tenant that may be removed."""
CHANGEABLE = (*CLEARABLE, "api_disabled")


class Tenants:
    """Creates, lists and changes tenants. Every method raises StoreError."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    async def ensure(self, name: str, by: Actor) -> tuple[Tenant, bool]:
        """Returns the tenant of that name or id, and whether this call created it."""
        async with self._database.unit_of_work() as session:
            known = await tenants.find(session, name)
            if known is not None:
                return known, False
            tenant = await tenants.ensure(session, name, int(self._now()))
            await audit_log.note(
                session, _act("tenant.create", tenant, by, after={"name": tenant.name})
            )
        return tenant, True

    async def listed(self) -> Sequence[Tenant]:
        """Returns all tenants by name."""
        async with self._database.reading() as session:
            return await tenants.listed(session)

    async def change(self, name: str, changes: Mapping[str, Any], by: Actor) -> Tenant:
        """Applies `changes` of `CHANGEABLE` to a tenant and returns it. Raises: NotFound."""
        assert set(changes) <= set(CHANGEABLE)
        async with self._database.unit_of_work() as session:
            found = await tenants.find(session, name)
            if found is None:
                raise NotFound(f"There is no tenant `{name}`.")
            await session.refresh(found, with_for_update=True)
            before = {member: getattr(found, member) for member in changes}
            changed = {member: new for member, new in changes.items() if new != before[member]}
            for member, new in changed.items():
                setattr(found, member, new)
            await session.flush()
            if changed:
                before = {member: before[member] for member in changed}
                act = _act("tenant.patch", found, by, before=before, after=changed)
                await audit_log.note(session, act)
        return found


def _act(
    action: str,
    tenant: Tenant,
    by: Actor,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any],
) -> audit_log.Act:
    return audit_log.Act(
        actor=by.actor,
        action=action,
        target=tenant.id,
        tenant_id=tenant.id,
        client_ip=by.client_ip,
        request_id=by.request_id,
        before=before,
        after=after,
    )
