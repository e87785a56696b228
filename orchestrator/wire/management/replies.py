"""What management and error replies look like, for `/openapi.json`; a test holds replies to it.

Nothing is encoded by these structs: replies are made where their values are.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from orchestrator.core.plans import Plan
from orchestrator.core.request import RouteHint
from orchestrator.http.error_replies import LimitReached, Seconds


class Health(msgspec.Struct, kw_only=True):
    """The gateway answers."""

    status: Literal["ok"]
    uptime_s: int


class ReadyPart(msgspec.Struct, kw_only=True):
    """A part of the appliance."""

    name: str
    status: Literal["ok", "degraded", "unavailable"]
    detail: str


class ReadyModel(msgspec.Struct, kw_only=True):
    """A model, and why it is not served if it is not."""

    id: str
    ready: bool
    detail: str


class Ready(msgspec.Struct, kw_only=True):
    """Whether a request would succeed; parts and models are told to admins."""

    status: Literal["ok", "degraded", "unavailable"]
    parts: list[ReadyPart] | msgspec.UnsetType = msgspec.UNSET
    models: list[ReadyModel] | msgspec.UnsetType = msgspec.UNSET


class KeyLimits(msgspec.Struct, kw_only=True):
    """Limits; null is none."""

    rpm_limit: int | None
    images_rpm_limit: int | None
    tpd_limit: int | None
    concurrency_limit: int | None


class VirtualKey(KeyLimits, kw_only=True):
    """A key without its secret."""

    id: str
    object: Literal["virtual_key"]
    label: str
    policy_id: str
    tenant_id: str
    prefix: str
    last4: str
    scope: Literal["inference", "admin"]
    allowed_models: list[str]
    plan: Plan | None
    deployment_id: str | None
    route_policy: RouteHint | None
    metadata: dict[str, str]
    status: Literal["active", "expired", "revoked"]
    created_at: Seconds
    expires_at: Seconds | None
    revoked_at: Seconds | None
    last_used_at: Seconds | None
    previous_expires_at: Seconds | None
    previous_last_used_at: Seconds | None
    effective_limits: KeyLimits


class VirtualKeyWithSecret(VirtualKey, kw_only=True):
    """A key with its secret, which no other reply shows."""

    secret: str


class VirtualKeyList(msgspec.Struct, kw_only=True):
    """Keys of the calling tenant."""

    object: Literal["list"]
    data: list[VirtualKey]
    has_more: bool


class Policy(msgspec.Struct, kw_only=True):
    """A policy, and one of its versions."""

    id: str
    object: Literal["policy"]
    tenant_id: str
    name: str
    active_version: int
    candidate_version: int | None
    created_at: Seconds
    version: int
    document: dict[str, Any]
    module: str | None
    version_created_at: Seconds
    version_created_by: str


class PolicyList(msgspec.Struct, kw_only=True):
    """Policies of the calling tenant."""

    object: Literal["list"]
    data: list[Policy]
    has_more: bool


class PolicyOutcome(msgspec.Struct, kw_only=True):
    """What a policy says."""

    allow: bool
    rule: str
    reason: str
    word: str
    routes: list[str]


class PolicyTestResult(msgspec.Struct, kw_only=True):
    """What a candidate says to each input."""

    object: Literal["policy_test"]
    data: list[PolicyOutcome]


class ShadowOutcome(msgspec.Struct, kw_only=True):
    """What the version in the shadow said."""

    version: int
    allow: bool | None
    rule: str | None


class PolicyDecision(msgspec.Struct, kw_only=True):
    """A decision that was recorded."""

    id: int | str
    object: Literal["policy_decision"]
    at: float
    key_id: str
    version: int
    input: dict[str, Any]
    allow: bool
    rule: str
    reason: str
    shadow: ShadowOutcome | None


class ChangedDecision(PolicyDecision, kw_only=True):
    """A recorded decision, and what the candidate says instead."""

    after: PolicyOutcome


class PolicyDecisionList(msgspec.Struct, kw_only=True):
    """Recorded decisions, the newest first."""

    object: Literal["list"]
    data: list[PolicyDecision]
    has_more: bool


class PolicyReplayResult(msgspec.Struct, kw_only=True):
    """Recorded decisions that a candidate would change."""

    object: Literal["policy_replay"]
    checked: int
    changed: list[ChangedDecision]


class ExplainedError(msgspec.Struct, kw_only=True):
    """What the call would be told."""

    code: str
    reason: str
    message: str
    param: str | None


class ExplainedDecision(PolicyOutcome, kw_only=True):
    """What the policy says to the call."""

    policy_id: str | None
    policy_version: int | None


class TokenEstimate(msgspec.Struct, kw_only=True):
    """The most that the call can cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Explanation(msgspec.Struct, kw_only=True):
    """What a call would meet."""

    object: Literal["explanation"]
    key_id: str
    endpoint: str
    allow: bool
    status: int
    error: ExplainedError | None
    decision: ExplainedDecision | None
    route: str | None
    route_reason: str | None
    limit: LimitReached | None
    tokens: TokenEstimate | None


class UsageSums(msgspec.Struct, kw_only=True):
    """Sums of usage; the groups that were asked for stand in front."""

    requests: int
    failed: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    total_tokens: int
    duration_ms: int
    wasted_tokens: int
    object: Literal["usage"] | msgspec.UnsetType = msgspec.UNSET
    hour: str | msgspec.UnsetType = msgspec.UNSET
    day: str | msgspec.UnsetType = msgspec.UNSET
    key_id: str | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET


class UsageList(msgspec.Struct, kw_only=True):
    """Sums of the calling tenant's usage."""

    object: Literal["list"]
    group_by: list[Literal["hour", "day", "key", "model"]]
    data: list[UsageSums]
    has_more: bool
    next_after: str | None
    next_offset: int | None
    total: UsageSums


class AuditEntry(msgspec.Struct, kw_only=True):
    """A line of the audit."""

    object: Literal["audit_entry"]
    seq: int
    id: str
    at: int
    time: str
    tenant_id: str | None
    actor: str
    action: str
    target: str
    before: Any
    after: Any
    origin: Any
    previous_hash: str
    hash: str


class AuditEntryList(msgspec.Struct, kw_only=True):
    """Lines of the audit, the newest first."""

    object: Literal["list"]
    data: list[AuditEntry]
    has_more: bool
