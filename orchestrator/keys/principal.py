"""The caller of a request, as its key says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.limits import UNLIMITED, Limits
from orchestrator.store.tables import DEFAULT_POLICY_ID


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller behind a good key. `allowed_models` of `("*",)` means all.

    `limits` are those of the key itself, its plan included, and `tenant_limits` those of its
    tenant; both bind. What the key's policy adds is not in them.
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
    """The tenant's switch: everything is refused."""
