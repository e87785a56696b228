"""The question to a policy: the facts of a request, and the Rego input built from them."""

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
    """The document's models by plan, in the form that Rego gets."""
    names: int = 0
    """The number of model and plan names in the document; the evaluation time grows with it."""


def version_of(
    policy_id: str, version: int, document: Mapping[str, Any], module: str | None
) -> PolicyVersion:
    """Parses a version from the store or from a caller. Raises: InvalidRequest."""
    parsed = parse_document(document)
    plans = {plan: list(models) for plan, models in parsed.plan_models.items()}
    # A plan's name may have any length; model names have at most 256 characters.
    names = sum(1 + len(plan) // 256 + len(models) for plan, models in plans.items())
    names += len(parsed.allowed_models)
    return PolicyVersion(policy_id, version, parsed, module or None, plans, names)


Key = tuple[object, ...]


class Question(msgspec.Struct, frozen=True):
    """A request put to one version of a policy. The answer depends only on `key`."""

    version: PolicyVersion
    asked: PolicyInput
    in_networks: bool
    in_window: bool
    minute: int | None
    """Minutes since the epoch, for an operator's rules. `None` where only the product's rules
    decide, which read neither clock nor address.
    """

    @property
    def key(self) -> Key:
        """The cache key: for one version, equal for questions with an equal `document`."""
        asked = self.asked
        return (
            asked.key_id, asked.key_label, asked.admin, asked.plan, asked.allowed_models,
            asked.route_policy, asked.tenant_id, asked.api_disabled, asked.requested,
            asked.model, asked.model_names, asked.task, asked.route_hint, self._address,
            self.in_networks, self.in_window, self.minute,
        )  # fmt: skip

    def document(self) -> dict[str, Any]:
        """Returns Rego's `input`."""
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
        """Returns the minute, in the time zone of the policy's window."""
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
    """Puts `asked` to `version`; `asked.at` must be set. `clock` shows modules time and address."""
    assert asked.at is not None
    return Question(
        version,
        asked,
        in_networks=version.document.admits(asked.client_ip),
        in_window=version.document.open_at(asked.at),
        minute=int(asked.at // 60) if clock else None,
    )


def as_facts(asked: PolicyInput) -> dict[str, Any]:
    """Returns `asked` as JSON."""
    return asdict(asked)


LATEST = 2**37
"""Max time in Unix seconds, about the year 6300: a calendar cannot hold all later times."""
_TEXTS = ("key_id", "tenant_id", "model", "task", "key_label", "policy_id", "requested")
_MAYBE_TEXTS = ("client_ip", "plan", "route_policy")
_LISTS = ("allowed_models", "model_names")
_FLAGS = ("admin", "api_disabled")


def from_facts(facts: Mapping[str, Any], where: str = "input") -> PolicyInput:
    """Parses facts written by `as_facts` or by a caller. Raises: InvalidRequest."""
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
