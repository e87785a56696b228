"""Refused requests, told to the audit."""

from __future__ import annotations

from typing import Any

from orchestrator.audit.denials import AuditTrail, Denial
from orchestrator.core.errors import GatewayError, PolicyDenied, RateLimited, Unauthenticated
from orchestrator.http.exchange import Exchange, OnError

_MAX_SHOWN = 200


def audited(trail: AuditTrail) -> OnError:
    """What tells `trail` of every denial of a known key: 401, 403 and 429."""

    def on_error(exchange: Exchange, error: GatewayError) -> None:
        if (denial := denial_of(exchange, error)) is not None:
            trail.deny(denial)

    return on_error


def denial_of(exchange: Exchange, error: GatewayError) -> Denial | None:
    """The denial that `error` is, if it is one and the key is known."""
    if not isinstance(error, Unauthenticated | PolicyDenied | RateLimited):
        return None
    path = _plain(exchange.scope["path"])
    facts: dict[str, Any] = {"method": exchange.scope["method"], "path": path}
    match error:
        case Unauthenticated():
            key_id, tenant_id = error.key_id, error.tenant_id
        case PolicyDenied():
            facts |= {"message": _plain(error.message), "rule": error.rule}
        case RateLimited() if error.hit is not None:
            facts |= {"scope": error.hit.scope, "kind": error.hit.kind, "limit": error.hit.limit}
    if not isinstance(error, Unauthenticated):
        if exchange.principal is None:
            return None
        key_id, tenant_id = exchange.principal.key_id, exchange.principal.tenant_id
    if not key_id:
        return None
    return Denial(
        status=error.status,
        reason=_reason(error),
        key_id=key_id,
        tenant_id=tenant_id,
        target=_plain(exchange.model) if exchange.model != "-" else path,
        client_ip=exchange.client_ip or "",
        request_id=exchange.request_id,
        facts=facts,
    )


def _plain(text: str) -> str:
    """Not endless, and without what is no character: callers choose these texts."""
    return text[:_MAX_SHOWN].encode("utf-8", "replace").decode()


def _reason(error: GatewayError) -> str:
    """The word that denials are counted by: of limits, which one."""
    if isinstance(error, RateLimited) and error.hit is not None:
        return f"{error.hit.scope}_{error.hit.kind}"
    return error.detail_reason
