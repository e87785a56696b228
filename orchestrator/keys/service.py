"""The rules for managing virtual keys, for HTTP and the command line.

Each change is one transaction with its audit line; it takes effect in this process at once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from orchestrator.audit import log as audit_log
from orchestrator.core.actor import Actor
from orchestrator.core.errors import InvalidRequest, NotFound
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.queries import ALL_MODELS, KeyFilter, NewKey
from orchestrator.keys.secret import Pepper, new_key_secret
from orchestrator.keys.values import (
    ID,
    MAX_OVERLAP_S,
    MAX_PAGE,
    KeySpec,
    KeyView,
    Patch,
    changed_limits,
    check_values,
    check_within,
    differences,
    view_of,
)
from orchestrator.policy import queries as policy_queries
from orchestrator.store.database import Database, Session
from orchestrator.store.tables import Tenant, VirtualKey

EVERY_KEY = KeyFilter()
_PART = 200


class Keys:
    """Creates, shows, changes and revokes keys.

    `tenant_id` says whose keys: a key of another tenant does not exist. `None`, for the command
    line, means all tenants. Every method raises StoreError.
    """

    def __init__(
        self,
        database: Database,
        pepper: Pepper,
        authenticator: Authenticator | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`authenticator` is the one of this process; it drops the keys that are changed here."""
        self._database = database
        self._pepper = pepper
        self._authenticator = authenticator
        self._now = now

    async def create(self, tenant_id: str, wanted: KeySpec, by: Actor) -> tuple[KeyView, str]:
        """Creates a key. Returns it and its secret, which is not stored. Raises: InvalidRequest."""
        now = int(self._now())
        check_values(wanted.values(), now)
        secret = new_key_secret()
        async with self._database.unit_of_work() as session:
            tenant = await _tenant(session, tenant_id)
            check_within(wanted.limits, tenant)
            await _check_policy(session, tenant_id, wanted.policy_id)
            new = NewKey(
                label=wanted.label.strip(),
                tenant_id=tenant_id,
                scope=wanted.scope,
                allowed_models=_models(wanted.allowed_models),
                expires_at=wanted.expires_at,
                policy_id=wanted.policy_id,
                plan=wanted.plan,
                limits=wanted.limits,
                deployment_id=wanted.deployment_id,
                route_policy=wanted.route_policy,
                metadata=wanted.metadata,
            )
            row = await key_queries.create(session, new, secret, self._pepper, now)
            view = view_of(row, tenant, now)
            await audit_log.note(
                session, audit_log.act_on(view, "key.create", by, after=view.as_json())
            )
        return view, secret

    async def page(
        self,
        tenant_id: str,
        which: KeyFilter = EVERY_KEY,
        *,
        after: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[tuple[list[KeyView], bool]]:
        """Yields the keys after `after`, the newest first: all of them, or at most `limit`.

        They come in parts, each with whether more keys follow, so that a long list does not delay
        other requests.
        Raises: InvalidRequest.
        """
        if limit is not None and not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest(
                f"`limit` must be between 1 and {MAX_PAGE}; {limit} was given.", param="limit"
            )
        await self._write_uses()
        now = int(self._now())
        async with self._database.reading() as session:
            if after is not None and await _found(session, tenant_id, after) is None:
                raise InvalidRequest("`after` names no key.", param="after")
            tenant = await _tenant(session, tenant_id)
            more = True
            while more:
                rows, more = await key_queries.page(
                    session, tenant_id, which, now, after=after, limit=limit or _PART
                )
                yield [view_of(row, tenant, now) for row in rows], more
                if limit is not None or not rows:
                    return
                after = rows[-1].id
                session.expunge_all()

    async def everything(
        self, tenant_id: str | None = None, which: KeyFilter = EVERY_KEY
    ) -> list[KeyView]:
        """Returns all keys of one tenant or of all tenants: tenant by tenant, the newest first."""
        async with self._database.reading() as session:
            owners = [tenant.id for tenant in await tenants.listed(session)]
        return [
            view
            for owner in owners
            if tenant_id in (None, owner)
            async for views, _ in self.page(owner, which)
            for view in views
        ]

    async def get(self, tenant_id: str | None, key_id: str) -> KeyView:
        """Returns the key of that id. Raises: NotFound."""
        await self._write_uses()
        async with self._database.reading() as session:
            row = await _existing(session, tenant_id, key_id)
            return view_of(row, await _tenant(session, row.tenant_id), int(self._now()))

    async def patch(self, tenant_id: str | None, key_id: str, patch: Patch, by: Actor) -> KeyView:
        """Changes a key and returns it. Raises: NotFound, InvalidRequest."""
        now = int(self._now())
        changes = patch.changes()
        check_values(changes, now)
        async with self._database.unit_of_work() as session:
            row = await _existing(session, tenant_id, key_id, to_write=True)
            if row.status == "revoked":
                raise InvalidRequest(f"The key `{key_id}` is revoked and cannot be changed.")
            tenant = await _tenant(session, row.tenant_id)
            before = view_of(row, tenant, now)
            if "policy_id" in changes:
                await _check_policy(session, row.tenant_id, changes["policy_id"])
            for name, value in changes.items():
                _set(row, name, value)
            check_within(changed_limits(changes), tenant)
            await session.flush()
            after = view_of(row, tenant, now)
            told = differences(before.as_json(), after.as_json())
            await audit_log.note(
                session, audit_log.act_on(after, "key.patch", by, told[0], told[1])
            )
        self._forget(key_id)
        return after

    async def rotate(
        self, tenant_id: str | None, key_id: str, overlap_s: int, by: Actor
    ) -> tuple[KeyView, str]:
        """Gives the key a new secret; the old one stays valid for `overlap_s`.

        Only the two newest secrets are ever valid. Raises: NotFound, InvalidRequest.
        """
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise InvalidRequest(
                f"`overlap_s` must be between 0 and {MAX_OVERLAP_S}; {overlap_s} was given.",
                param="overlap_s",
            )
        now = int(self._now())
        secret = new_key_secret()
        await self._write_uses()
        async with self._database.unit_of_work() as session:
            row = await _existing(session, tenant_id, key_id, to_write=True)
            tenant = await _tenant(session, row.tenant_id)
            before = view_of(row, tenant, now)
            if before.status != "active":
                raise InvalidRequest(f"The key `{key_id}` is {before.status}: it has no use left.")
            await key_queries.rotate(session, row, secret, self._pepper, ends_at=now + overlap_s)
            view = view_of(row, tenant, now)
            told = differences(before.as_json(), view.as_json())
            await audit_log.note(
                session, audit_log.act_on(view, "key.rotate", by, told[0], told[1])
            )
        self._forget(key_id)
        return view, secret

    async def revoke(self, tenant_id: str | None, key_id: str, by: Actor) -> tuple[KeyView, bool]:
        """Revokes the key for good; returns it and whether this call did that. Raises: NotFound."""
        now = int(self._now())
        async with self._database.unit_of_work() as session:
            row = await _existing(session, tenant_id, key_id, to_write=True)
            tenant = await _tenant(session, row.tenant_id)
            outcome = await key_queries.revoke(session, row.id, now)
            is_new = outcome is not None and outcome[1]
            view = view_of(row, tenant, now)
            if is_new:
                await audit_log.note(
                    session,
                    audit_log.act_on(
                        view, "key.revoke", by, {"status": "active"}, {"status": "revoked"}
                    ),
                )
        self._forget(key_id)
        return view, is_new

    def _forget(self, key_id: str) -> None:
        if self._authenticator is not None:
            self._authenticator.forget(key_id)

    async def _write_uses(self) -> None:
        """Writes the last uses seen by this process, so that the answer includes them."""
        if self._authenticator is not None:
            await self._authenticator.record_use()


async def _found(
    session: Session, tenant_id: str | None, key_id: str, *, to_write: bool = False
) -> VirtualKey | None:
    if not ID.fullmatch(key_id):
        return None
    return await key_queries.find(session, key_id, tenant_id=tenant_id, to_write=to_write)


async def _existing(
    session: Session, tenant_id: str | None, key_id: str, *, to_write: bool = False
) -> VirtualKey:
    row = await _found(session, tenant_id, key_id, to_write=to_write)
    if row is None:
        raise NotFound("There is no key of this id.")
    return row


async def _tenant(session: Session, tenant_id: str) -> Tenant:
    tenant = await tenants.get(session, tenant_id)
    if tenant is None:
        raise NotFound("There is no tenant of this id.")
    return tenant


async def _check_policy(session: Session, tenant_id: str, policy_id: str) -> None:
    if not ID.fullmatch(policy_id) or not await policy_queries.exists(
        session, tenant_id, policy_id
    ):
        raise InvalidRequest("`policy_id` names no policy.", param="policy_id")


def _set(row: VirtualKey, name: str, value: Any) -> None:
    match name:
        case "label":
            row.label = value.strip()
        case "allowed_models":
            row.allowed_models = list(_models(value))
        case "metadata":
            row.key_metadata = dict(value)
        case _:
            setattr(row, name, value)


def _models(names: tuple[str, ...]) -> tuple[str, ...]:
    return ALL_MODELS if "*" in names else tuple(dict.fromkeys(names))
