"""The caller of a request, as its key identifies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.limits import UNLIMITED, Limits
from orchestrator.store.tables import DEFAULT_POLICY_ID


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller with a valid key. `allowed_models` of `("*",)` means all.

    `limits` are those of the key, its plan included; `tenant_limits` are those of its tenant.
    Both apply. Limits that the key's policy adds are not included.
    """

    key_id: str
    key_label: str
    tenant_id: str
    admin: bool
    allowed_models: tuple[str, ...]
    limits: Limits = UNLIMITED
    tenant_limits: Limits = UNLIMITED
    policy_id: str = DEFAULT_POLICY_ID
    plan: str | None = None
    tenant_plan: str | None = None
    route_policy: str | None = None
    deployment_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    api_disabled: bool = False
    """Whether the tenant's API is turned off: every request is refused."""
