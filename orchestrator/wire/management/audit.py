"""The audit over HTTP: what was done and refused in the caller's tenant, the newest first."""

from __future__ import annotations

import orjson

from orchestrator.audit.denials import AuditTrail
from orchestrator.audit.log import as_document
from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import Operation, query_parameter
from orchestrator.http.queries import Query, require_admin
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.wire.management.replies import AuditEntryList

_DEFAULT_PAGE = 100
_MAX_PAGE = 1000
_PARAMETERS = {
    "start_time": "the first moment: seconds since the epoch, or RFC 3339",
    "end_time": "the first moment that no longer counts",
    "action": "this action only, such as `key.create` or `request.denied`",
    "limit": f"most lines of one page, {_DEFAULT_PAGE} unless given",
    "before": "only lines with a smaller number: the last `seq` of the page before",
}


def routes(authenticator: Authenticator, trail: AuditTrail) -> list[Route]:
    """The route of the audit. It needs an admin's key."""

    async def listed(exchange: Exchange) -> None:
        """The tenant's part of the audit, the newest line first."""
        principal = await exchange.admit(authenticator)
        require_admin(principal, "read the audit")
        query = Query(exchange.query_string)
        limit = query.number("limit", _DEFAULT_PAGE, least=1, most=_MAX_PAGE)
        before = query.number("before", 0, most=2**62)
        lines = await trail.listed(
            principal.tenant_id,
            before_seq=before or None,
            action=query.text("action"),
            start_at=query.moment("start_time"),
            end_at=query.moment("end_time"),
            # One more than asked for tells whether there is more.
            limit=limit + 1,
        )
        document = {
            "object": "list",
            "data": [{"object": "audit_entry", **as_document(line)} for line in lines[:limit]],
            "has_more": len(lines) > limit,
        }
        await exchange.reply(orjson.dumps(document))

    operation = Operation(
        reply=AuditEntryList,
        parameters=[query_parameter(name, text) for name, text in _PARAMETERS.items()],
        error=ErrorReply,
    )
    return [Route("GET", "/audit", listed, "list_audit", "Lines of the audit", operation)]
