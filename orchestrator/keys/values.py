"""The requested values of a key, how a key is shown, and which values are invalid."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from orchestrator.core.actor import UNSET, Unset
from orchestrator.core.errors import InvalidRequest
from orchestrator.core.limits import UNLIMITED, Limits, tighter
from orchestrator.core.plans import Plan, limits_of
from orchestrator.core.request import RouteHint
from orchestrator.keys.queries import ALL_MODELS, KeyState
from orchestrator.store.tables import KeyScope, Tenant, VirtualKey, explicit_limits

MAX_LABEL = 200
MAX_OVERLAP_S = 30 * 24 * 3600
MAX_PAGE = 100
_MAX_LIMIT = 10**12
_MAX_MODELS = 500
_MAX_METADATA = 16
_MAX_METADATA_NAME = 64
_MAX_METADATA_VALUE = 512
ID = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeySpec:
    """The requested values of a key. `limits` are explicit numbers; they override the plan's."""

    label: str
    policy_id: str
    scope: KeyScope = "inference"
    allowed_models: tuple[str, ...] = ALL_MODELS
    limits: Limits = UNLIMITED
    plan: Plan | None = None
    deployment_id: str | None = None
    route_policy: RouteHint | None = None
    expires_at: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Returns the values to check, by their names in the HTTP interface."""
        return {
            "label": self.label,
            "allowed_models": self.allowed_models,
            "expires_at": self.expires_at,
            "metadata": self.metadata,
            "deployment_id": self.deployment_id,
            **named(self.limits),
        }


@dataclass(frozen=True, slots=True)
class Patch:
    """The requested changes. `None` removes a value."""

    label: str | Unset = UNSET
    policy_id: str | Unset = UNSET
    allowed_models: tuple[str, ...] | Unset = UNSET
    rpm_limit: int | Unset | None = UNSET
    images_rpm_limit: int | Unset | None = UNSET
    tpd_limit: int | Unset | None = UNSET
    concurrency_limit: int | Unset | None = UNSET
    plan: Plan | Unset | None = UNSET
    deployment_id: str | Unset | None = UNSET
    route_policy: RouteHint | Unset | None = UNSET
    expires_at: int | Unset | None = UNSET
    metadata: Mapping[str, str] | Unset = UNSET

    def changes(self) -> dict[str, Any]:
        """Returns the members that change."""
        given = {member.name: getattr(self, member.name) for member in fields(self)}
        return {name: value for name, value in given.items() if value is not UNSET}


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as it is shown to its managers, without its secret. `limits` include the plan's."""

    id: str
    label: str
    tenant_id: str
    policy_id: str
    prefix: str
    last4: str
    scope: str
    allowed_models: tuple[str, ...]
    plan: str | None
    limits: Limits
    effective: Limits
    deployment_id: str | None
    route_policy: str | None
    status: KeyState
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    previous_expires_at: int | None
    previous_last_used_at: int | None
    metadata: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Returns the `virtual_key` object of the HTTP interface and of the command line."""
        return {
            "id": self.id,
            "object": "virtual_key",
            "label": self.label,
            "policy_id": self.policy_id,
            "tenant_id": self.tenant_id,
            "prefix": self.prefix,
            "last4": self.last4,
            "scope": self.scope,
            "allowed_models": list(self.allowed_models),
            "plan": self.plan,
            **named(self.limits),
            "deployment_id": self.deployment_id,
            "route_policy": self.route_policy,
            "metadata": dict(self.metadata),
            "status": self.status,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "revoked_at": self.revoked_at,
            "last_used_at": self.last_used_at,
            "previous_expires_at": self.previous_expires_at,
            "previous_last_used_at": self.previous_last_used_at,
            "effective_limits": named(self.effective),
        }


def check_values(values: Mapping[str, Any], now: int) -> None:
    """Raises: InvalidRequest when a value could not be right in any key."""
    for name, value in values.items():
        check = _CHECKS.get(name)
        if check is not None and value is not None and (wrong := check(value)):
            raise InvalidRequest(f"`{name}` {wrong}.", param=name)
    expires_at = values.get("expires_at")
    if expires_at is not None and not now < expires_at <= _MAX_LIMIT:
        raise InvalidRequest(
            f"`expires_at` must be a time to come, in seconds; {expires_at} was given.",
            param="expires_at",
        )


def _wrong_label(label: str) -> str:
    if 1 <= len(label.strip()) <= MAX_LABEL and label.strip().isprintable():
        return ""
    return f"must be 1 to {MAX_LABEL} printable characters"


def _wrong_models(models: tuple[str, ...]) -> str:
    if not 1 <= len(models) <= _MAX_MODELS:
        return f"must name between 1 and {_MAX_MODELS} models; `*` is all of them"
    if not all(1 <= len(name) <= MAX_LABEL and name.isprintable() for name in models):
        return f"must hold names of 1 to {MAX_LABEL} printable characters"
    return ""


def _wrong_limit(limit: int) -> str:
    if 1 <= limit <= _MAX_LIMIT:
        return ""
    return f"must be between 1 and {_MAX_LIMIT}; {limit} was given"


def _wrong_metadata(metadata: Mapping[str, str]) -> str:
    if len(metadata) > _MAX_METADATA:
        return f"may have {_MAX_METADATA} members at most; {len(metadata)} were given"
    for name, value in metadata.items():
        if not 1 <= len(name) <= _MAX_METADATA_NAME or len(value) > _MAX_METADATA_VALUE:
            return (
                f"may have names of {_MAX_METADATA_NAME} and values of {_MAX_METADATA_VALUE} "
                "characters at most"
            )
        if not (name + value).isprintable():
            return "must hold printable characters only"
    return ""


def _wrong_deployment(_: str) -> str:
    return "names no deployment"


_CHECKS: Mapping[str, Callable[[Any], str]] = {
    "label": _wrong_label,
    "allowed_models": _wrong_models,
    "rpm_limit": _wrong_limit,
    "images_rpm_limit": _wrong_limit,
    "tpd_limit": _wrong_limit,
    "concurrency_limit": _wrong_limit,
    "metadata": _wrong_metadata,
    "deployment_id": _wrong_deployment,
}


def check_within(limits: Limits, tenant: Tenant) -> None:
    """Raises: InvalidRequest when a number given for a key is over its tenant's."""
    most = named(limits_of(tenant.plan, explicit_limits(tenant)))
    for name, limit in named(limits).items():
        highest = most[name]
        if limit is not None and highest is not None and limit > highest:
            raise InvalidRequest(
                f"`{name}` may be {highest} at most, the limit of the tenant; {limit} was given.",
                param=name,
            )


def changed_limits(changes: Mapping[str, Any]) -> Limits:
    """Returns the limits that a patch gives."""
    return Limits(
        rpm=changes.get("rpm_limit"),
        images_rpm=changes.get("images_rpm_limit"),
        tpd=changes.get("tpd_limit"),
        concurrency=changes.get("concurrency_limit"),
    )


def named(limits: Limits) -> dict[str, int | None]:
    """Returns limits by their names in the HTTP interface."""
    return {
        "rpm_limit": limits.rpm,
        "images_rpm_limit": limits.images_rpm,
        "tpd_limit": limits.tpd,
        "concurrency_limit": limits.concurrency,
    }


def view_of(row: VirtualKey, tenant: Tenant, now: int) -> KeyView:
    """Returns the key as it is shown at `now`."""
    own = limits_of(row.plan, explicit_limits(row))
    status: KeyState = "revoked" if row.status == "revoked" else "active"
    if status == "active" and row.expires_at is not None and row.expires_at <= now:
        status = "expired"
    return KeyView(
        id=row.id,
        label=row.label,
        tenant_id=row.tenant_id,
        policy_id=row.policy_id,
        prefix=row.prefix,
        last4=row.last4,
        scope=row.scope,
        allowed_models=tuple(row.allowed_models),
        plan=row.plan,
        limits=own,
        effective=tighter(own, limits_of(tenant.plan, explicit_limits(tenant))),
        deployment_id=row.deployment_id,
        route_policy=row.route_policy,
        status=status,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        previous_expires_at=row.previous_expires_at,
        previous_last_used_at=row.previous_last_used_at,
        metadata=dict(row.key_metadata),
    )


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the old and the new values of the members that differ."""
    names = [name for name in after if before[name] != after[name]]
    return {name: before[name] for name in names}, {name: after[name] for name in names}
