"""Checks an engine's answer: anything unexpected counts as no answer."""

from __future__ import annotations

import re
from typing import Any, cast

from orchestrator.core.errors import PolicyUnavailable
from orchestrator.policy import Decision, RouteName
from orchestrator.policy.document import ROUTES
from orchestrator.policy.question import PolicyVersion
from orchestrator.rego import NoAnswerError

RETRY_AFTER_S = 1.0
_RULE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MAX_REASON = 500


def unavailable(
    message: str = "The policy of this key cannot be evaluated at the moment.",
    *,
    retry_after_s: float = RETRY_AFTER_S,
) -> PolicyUnavailable:
    """Returns the error that a caller gets when there is no decision."""
    return PolicyUnavailable(message, retry_after_s=retry_after_s, retryable=True)


def read_verdict(answer: Any, version: PolicyVersion) -> Decision:
    """Parses `answer`, Rego's `decision`. Raises: NoAnswerError."""
    match answer:
        case {
            "allow": bool(allow),
            "rule": str(rule),
            "reason": str(reason),
            "word": str(word),
            "param": str(param),
            "routes": [*routes],
        } if all(route in ROUTES for route in routes) and (not allow or routes):
            return Decision(
                allow=allow,
                # The rule goes into a header and into the usage records.
                rule=rule if _RULE.fullmatch(rule) else "custom",
                reason=reason[:_MAX_REASON],
                routes=cast("tuple[RouteName, ...]", tuple(routes)),
                word=word if _RULE.fullmatch(word) else "policy_denied" if not allow else "",
                param=param or None,
                limits=version.document.limits,
                policy_id=version.policy_id,
                version=version.version,
                cache_tenants=version.document.cache_tenants,
            )
    raise NoAnswerError("the answer is no decision")
