"""Queries about virtual keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import BigInteger, ColumnElement, LargeBinary, bindparam, func, or_, update
from sqlmodel import col, select

from orchestrator.core.ids import new_id
from orchestrator.core.limits import UNLIMITED, Limits
from orchestrator.keys.secret import Pepper, public_prefix
from orchestrator.store.database import Session
from orchestrator.store.tables import DEFAULT_POLICY_ID, KeyScope, Tenant, VirtualKey

ALL_MODELS = ("*",)

KeyState = Literal["active", "expired", "revoked"]
"""The state of a key at a given time; the row does not hold it, because it depends on the clock."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """The values of a new key. Times are seconds since the epoch; `limits` only explicit ones."""

    label: str
    tenant_id: str
    scope: KeyScope = "inference"
    allowed_models: tuple[str, ...] = ALL_MODELS
    expires_at: int | None = None
    policy_id: str = DEFAULT_POLICY_ID
    plan: str | None = None
    limits: Limits = UNLIMITED
    deployment_id: str | None = None
    route_policy: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key, and which of the requested digests belongs to it.

    `previous` says that the digest is the one from before the last rotation.
    """

    key: VirtualKey
    tenant: Tenant
    digest: bytes
    previous: bool


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys are listed. Times are in seconds since the epoch.

    `label` matches a part of the label; A to Z match in either case. The last use of a key is the
    later use of its two secrets; a key that was never used counts as used before any time.
    """

    label: str | None = None
    status: KeyState | None = None
    policy_id: str | None = None
    last_used_before: int | None = None
    last_used_after: int | None = None


async def create(
    session: Session, new: NewKey, secret: str, pepper: Pepper, now: int
) -> VirtualKey:
    """Adds a key; stores only the digest, the prefix and the last four characters of `secret`."""
    key = VirtualKey(
        id=new_id("key"),
        tenant_id=new.tenant_id,
        label=new.label,
        prefix=public_prefix(secret),
        last4=secret[-4:],
        digest=pepper.digest(secret),
        pepper_id=pepper.id,
        scope=new.scope,
        allowed_models=list(new.allowed_models),
        status="active",
        created_at=now,
        expires_at=new.expires_at,
        policy_id=new.policy_id,
        plan=new.plan,
        rpm_limit=new.limits.rpm,
        images_rpm_limit=new.limits.images_rpm,
        tpd_limit=new.limits.tpd,
        concurrency_limit=new.limits.concurrency,
        deployment_id=new.deployment_id,
        route_policy=new.route_policy,
        key_metadata=dict(new.metadata),
    )
    session.add(key)
    await session.flush()
    return key


async def find_by_digest(session: Session, digest: bytes) -> VirtualKey | None:
    """Returns the key with that digest, whatever its status."""
    return (await session.exec(select(VirtualKey).where(VirtualKey.digest == digest))).one_or_none()


async def find_by_digests(session: Session, digests: Sequence[bytes]) -> FoundKey | None:
    """Returns the key that one of `digests` belongs to, now or before its last rotation."""
    current, previous = col(VirtualKey.digest), col(VirtualKey.previous_digest)
    query = (
        select(VirtualKey, Tenant)
        .join(Tenant, col(Tenant.id) == col(VirtualKey.tenant_id))
        .where(or_(current.in_(digests), previous.in_(digests)))
    )
    found = (await session.exec(query)).one_or_none()
    if found is None:
        return None
    key, tenant = found
    if key.digest in digests:
        return FoundKey(key, tenant, key.digest, previous=False)
    assert key.previous_digest is not None
    return FoundKey(key, tenant, key.previous_digest, previous=True)


async def find(
    session: Session, key_id: str, *, tenant_id: str | None = None, to_write: bool = False
) -> VirtualKey | None:
    """Returns the key of that id, and of that tenant if one is given. `to_write` locks its row."""
    query = select(VirtualKey).where(VirtualKey.id == key_id)
    if tenant_id is not None:
        query = query.where(VirtualKey.tenant_id == tenant_id)
    if to_write:
        query = query.with_for_update()
    return (await session.exec(query)).one_or_none()


async def listed(session: Session) -> Sequence[VirtualKey]:
    """Returns all keys, the oldest first."""
    order = (col(VirtualKey.created_at), col(VirtualKey.id))
    return (await session.exec(select(VirtualKey).order_by(*order))).all()


async def page(
    session: Session,
    tenant_id: str,
    which: KeyFilter,
    now: int,
    *,
    after: str | None,
    limit: int,
) -> tuple[Sequence[VirtualKey], bool]:
    """Returns at most `limit` keys of a tenant after the key `after`, the newest first, and whether
    more follow.

    Ids sort by creation time, so a page does not move when keys are added.
    """
    query = select(VirtualKey).where(VirtualKey.tenant_id == tenant_id, *_conditions(which, now))
    if after is not None:
        query = query.where(col(VirtualKey.id) < after)
    query = query.order_by(col(VirtualKey.id).desc()).limit(limit + 1)
    rows = (await session.exec(query)).all()
    return rows[:limit], len(rows) > limit


def _conditions(which: KeyFilter, now: int) -> list[ColumnElement[bool]]:
    label, expires_at = col(VirtualKey.label), col(VirtualKey.expires_at)
    uses = [col(VirtualKey.last_used_at), col(VirtualKey.previous_last_used_at)]
    found: list[ColumnElement[bool]] = []
    if which.label is not None:
        found.append(label.icontains(which.label, autoescape=True))
    if which.policy_id is not None:
        found.append(col(VirtualKey.policy_id) == which.policy_id)
    if which.last_used_after is not None:
        found.append(or_(*[use >= which.last_used_after for use in uses]))
    if which.last_used_before is not None:
        found += [or_(use.is_(None), use < which.last_used_before) for use in uses]
    if which.status is not None:
        kept = "revoked" if which.status == "revoked" else "active"
        found.append(col(VirtualKey.status) == kept)
    if which.status == "active":
        found.append(or_(expires_at.is_(None), expires_at > now))
    if which.status == "expired":
        found.append(expires_at <= now)
    return found


async def revoke(session: Session, key_id: str, now: int) -> tuple[VirtualKey, bool] | None:
    """Revokes the key. Returns it and whether this call did that; `None` if there is no key."""
    key = await find(session, key_id, to_write=True)
    if key is None:
        return None
    if key.status == "revoked":
        return key, False
    key.status = "revoked"
    key.revoked_at = now
    await session.flush()
    return key, True


async def rotate(
    session: Session, key: VirtualKey, secret: str, pepper: Pepper, *, ends_at: int
) -> None:
    """Gives `key` a new secret; the current one stays valid until `ends_at`.

    A secret from before an earlier rotation becomes invalid at once, even if it had time left.
    """
    key.previous_digest = key.digest
    key.previous_pepper_id = key.pepper_id
    key.previous_expires_at = ends_at
    key.previous_last_used_at = key.last_used_at
    key.digest = pepper.digest(secret)
    key.pepper_id = pepper.id
    key.prefix = public_prefix(secret)
    key.last4 = secret[-4:]
    key.last_used_at = None
    await session.flush()


async def digest_anew(session: Session, old: bytes, new: bytes, pepper: Pepper) -> None:
    """Replaces the digest `old`, if still stored, with `new`, made with `pepper`."""
    current, previous = col(VirtualKey.digest), col(VirtualKey.previous_digest)
    await session.exec(
        update(VirtualKey).where(current == old).values(digest=new, pepper_id=pepper.id)
    )
    await session.exec(
        update(VirtualKey)
        .where(previous == old)
        .values(previous_digest=new, previous_pepper_id=pepper.id)
    )


async def is_empty(session: Session) -> bool:
    """Whether the store has no keys at all."""
    return (await session.exec(select(VirtualKey.id).limit(1))).first() is None


async def count_active_by_pepper(session: Session) -> dict[str, int]:
    """Returns the number of active keys for each pepper."""
    query = (
        select(VirtualKey.pepper_id, func.count())
        .where(VirtualKey.status == "active")
        .group_by(VirtualKey.pepper_id)
    )
    return dict((await session.exec(query)).all())


async def record_use(session: Session, used_at: Mapping[tuple[str, bytes], int]) -> None:
    """Moves the last use of each secret, identified by key and digest, forward, never back.

    Other processes write it too: to avoid deadlocks, all update the rows in the order of the keys.
    """
    given = [{"of": digest, "moment": when} for (_, digest), when in sorted(used_at.items())]
    connection = await session.connection()
    for digest, used in (("digest", "last_used_at"), ("previous_digest", "previous_last_used_at")):
        last = getattr(VirtualKey, used)
        moment = bindparam("moment", type_=BigInteger)
        # One statement for all: thousands of keys may have been used.
        await connection.execute(
            update(VirtualKey)
            .where(
                getattr(VirtualKey, digest) == bindparam("of", type_=LargeBinary),
                or_(last.is_(None), last < moment),
            )
            .values({used: moment}),
            given,
        )
