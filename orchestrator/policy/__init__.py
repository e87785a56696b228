"""Which requests are allowed: the protocol of a policy engine, and one that allows all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from orchestrator.core.limits import UNLIMITED, Limits
from orchestrator.core.request import RouteHint

RouteName = Literal["local", "cloud"]
DEFAULT_POLICY = "pol_default"


class PolicyInput(msgspec.Struct, frozen=True):
    """The facts that a decision is based on; never any prompt text.

    A struct, because one is made for each request.
    `at` is the time to decide for, in Unix seconds; `None` is now. `model_names` are the
    model's id and its aliases, `requested` the one that the caller used.
    """

    key_id: str
    tenant_id: str
    model: str
    task: str
    route_hint: RouteHint
    client_ip: str | None = None
    key_label: str = ""
    admin: bool = False
    allowed_models: tuple[str, ...] = ("*",)
    plan: str | None = None
    route_policy: str | None = None
    policy_id: str = DEFAULT_POLICY
    api_disabled: bool = False
    model_names: tuple[str, ...] = ()
    requested: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision. `rule` names the deciding rule, `reason` is a sentence for a refused caller.

    `word` is the reason in one word, for programs; `param` the member of the request that caused
    the refusal, if any. `limits` are the policy's own, for each key that has it. `cache_tenants`
    are the ids of the tenants that the policy shares the prefix cache with.
    """

    allow: bool
    rule: str
    reason: str = ""
    routes: tuple[RouteName, ...] = ("local",)
    word: str = "policy_denied"
    param: str | None = None
    limits: Limits = UNLIMITED
    policy_id: str = DEFAULT_POLICY
    version: int = 0
    cache_tenants: tuple[str, ...] = ()


class PolicyEngine(Protocol):
    """Decides about one request."""

    async def decide(self, asked: PolicyInput) -> Decision:
        """Returns the decision. Raises: PolicyUnavailable when none can be had, which refuses."""
        ...


class AllowAll:
    """Allows everything that the key allows, and routes it to this appliance."""

    async def decide(self, asked: PolicyInput) -> Decision:
        """Allows the request if the key names the model or all models."""
        allowed = asked.allowed_models
        if "*" in allowed or any(name in allowed for name in (asked.model, *asked.model_names)):
            return _ALLOWED
        return Decision(
            allow=False,
            rule="model_not_allowed",
            reason=f"Key '{asked.key_label}' lacks scope for model '{asked.requested}'.",
            word="model_not_allowed",
            param="model",
        )


_ALLOWED = Decision(allow=True, rule="allow_all")
