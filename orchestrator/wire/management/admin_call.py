"""What every call of the management API does: who calls, as which actor, and the reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from orchestrator.core.actor import Actor
from orchestrator.http.exchange import Exchange
from orchestrator.http.paths import name_in_path
from orchestrator.http.queries import require_admin
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.principal import Principal


async def admitted(exchange: Exchange, authenticator: Authenticator, what: str) -> Principal:
    """The caller, whose key may do `what`.

    Raises: PolicyDenied, Unauthenticated, InvalidRequest, StoreUnavailable.
    """
    principal = await exchange.admit(authenticator)
    require_admin(principal, what)
    return principal


def actor_of(exchange: Exchange, principal: Principal, dialect: str) -> Actor:
    """The caller, for the audit."""
    context = exchange.context(dialect)
    return Actor(f"key:{principal.key_id}", context.client_ip or "", context.request_id)


def path_id(exchange: Exchange, name: str) -> str:
    """The id in the path, as it was sent."""
    return name_in_path(exchange.scope, name)


async def reply(exchange: Exchange, document: Mapping[str, Any], status: int = 200) -> None:
    """Sends `document` as JSON."""
    await exchange.reply(orjson.dumps(document), status=status)


async def reply_nothing(exchange: Exchange) -> None:
    """Sends 204."""
    await exchange.send({"type": "http.response.start", "status": 204, "headers": []})
    await exchange.send({"type": "http.response.body", "body": b""})
