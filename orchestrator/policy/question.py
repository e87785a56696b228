"""What a policy is asked: the facts of a request, and the input of Rego that is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import asdict

from orchestrator.core.errors import InvalidRequest
from orchestrator.policy import PolicyInput
from orchestrator.policy.document import DAYS, PolicyDocument, parse_document


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version of a policy, ready to be evaluated."""

    policy_id: str
    version: int
    document: PolicyDocument
    module: str | None = None
    plan_models: Mapping[str, list[str]] = field(default_factory=dict)
    """Of the document, as Rego is to see it."""
    names: int = 0
    """How many names of models and plans the document holds; evaluating takes time by them."""


def version_of(
    policy_id: str, version: int, document: Mapping[str, Any], module: str | None
) -> PolicyVersion:
    """A version as the store or a caller gives it. Raises: InvalidRequest."""
    parsed = parse_document(document)
    plans = {plan: list(models) for plan, models in parsed.plan_models.items()}
    # A plan's name may have any length, those of models have 256 characters at most.
    names = sum(1 + len(plan) // 256 + len(models) for plan, models in plans.items())
    names += len(parsed.allowed_models)
    return PolicyVersion(policy_id, version, parsed, module or None, plans, names)


Key = tuple[object, ...]


class Question(msgspec.Struct, frozen=True):
    """A request before one version of a policy. `key` holds all that the answer depends on."""

    version: PolicyVersion
    asked: PolicyInput
    in_networks: bool
    in_window: bool
    minute: int | None
    """Since the epoch, for rules of somebody else. `None` where the product's own, which read
    neither clock nor address, decide alone."""

    @property
    def key(self) -> Key:
        """Equal for questions whose `document` is equal, for one version of a policy."""
        asked = self.asked
        return (
            asked.key_id, asked.key_label, asked.admin, asked.plan, asked.allowed_models,
            asked.route_policy, asked.tenant_id, asked.api_disabled, asked.requested,
            asked.model, asked.model_names, asked.task, asked.route_hint, self._address,
            self.in_networks, self.in_window, self.minute,
        )  # fmt: skip

    def document(self) -> dict[str, Any]:
        """Rego's `input`."""
        asked, policy = self.asked, self.version.document
        return {
            "tenant": {"id": asked.tenant_id, "api_disabled": asked.api_disabled},
            "key": {
                "id": asked.key_id,
                "label": asked.key_label,
                "admin": asked.admin,
                "plan": asked.plan or "",
                "allowed_models": list(asked.allowed_models),
                "route_policy": asked.route_policy or "",
            },
            "model": {
                "id": asked.model,
                "names": list(asked.model_names or (asked.model,)),
                "requested": asked.requested or asked.model,
                "task": asked.task,
            },
            "request": {"route_hint": asked.route_hint},
            "client": {"ip": self._address, "in_networks": self.in_networks},
            "time": {"in_window": self.in_window, **self._clock()},
            "policy": {
                "id": self.version.policy_id,
                "version": self.version.version,
                "api_disabled": policy.api_disabled,
                "allowed_models": list(policy.allowed_models),
                "allowed_routes": list(policy.allowed_routes),
                "plan_models": dict(self.version.plan_models),
            },
        }

    @property
    def _address(self) -> str:
        return "" if self.minute is None else self.asked.client_ip or ""

    def _clock(self) -> dict[str, Any]:
        """The minute, in the zone of the policy's time window."""
        if self.minute is None:
            return {}
        local = self.version.document.local_time(self.minute * 60)
        return {
            "date": local.strftime("%Y-%m-%d"),
            "weekday": DAYS[local.weekday()],
            "hour": local.hour,
            "minute": local.minute,
            "timezone": str(local.tzinfo),
        }


def question(version: PolicyVersion, asked: PolicyInput, *, clock: bool) -> Question:
    """`asked` put to `version`; `asked.at` must be set. `clock` lets modules see when and where."""
    assert asked.at is not None
    return Question(
        version,
        asked,
        in_networks=version.document.admits(asked.client_ip),
        in_window=version.document.open_at(asked.at),
        minute=int(asked.at // 60) if clock else None,
    )


def as_facts(asked: PolicyInput) -> dict[str, Any]:
    """`asked` as JSON."""
    return asdict(asked)


LATEST = 2**37
"""Moments, in Unix seconds, lie before the year 6300; what comes later no calendar holds."""
_TEXTS = ("key_id", "tenant_id", "model", "task", "key_label", "policy_id", "requested")
_MAYBE_TEXTS = ("client_ip", "plan", "route_policy")
_LISTS = ("allowed_models", "model_names")
_FLAGS = ("admin", "api_disabled")


def from_facts(facts: Mapping[str, Any], where: str = "input") -> PolicyInput:
    """The facts that `as_facts` wrote, or that somebody made up. Raises: InvalidRequest."""
    known = PolicyInput.__struct_fields__
    given = {
        "key_id": "key_test", "tenant_id": "", "model": "", "task": "generate",
        "route_hint": "local-only", "key_label": "test",
        **facts,
    }  # fmt: skip
    for name, value in given.items():
        if name not in known:
            raise InvalidRequest(
                f"`{where}.{name}` is unknown; there are {', '.join(sorted(known))}.",
                param=f"{where}.{name}",
            )
        if not _fits(name, value):
            raise InvalidRequest(f"`{where}.{name}` is of a wrong kind.", param=f"{where}.{name}")
    lists = {name: tuple(given[name]) for name in _LISTS if name in given}
    return PolicyInput(**{**given, **lists})


def _fits(name: str, value: Any) -> bool:
    if name in _TEXTS:
        return isinstance(value, str)
    if name in _MAYBE_TEXTS:
        return value is None or isinstance(value, str)
    if name in _LISTS:
        return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    if name in _FLAGS:
        return isinstance(value, bool)
    if name == "route_hint":
        return value in ("local-only", "cloud-ok")
    return value is None or (type(value) in (int, float) and 0 <= value < LATEST)
