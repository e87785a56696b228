"""Whether the server answers, and whether a request would succeed. Neither needs a key."""

from __future__ import annotations

import time
from typing import Any

import orjson

from orchestrator.core.errors import GatewayError
from orchestrator.health.readiness import Readiness, Report
from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import Operation
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.wire.management.replies import Health, Ready

_WORDS = {"ok": "ok", "degraded": "degraded", "failed": "unavailable"}
_STARTING = Report("failed", (), ())
_NO_STORE = [(b"cache-control", b"no-store")]


def routes(authenticator: Authenticator, readiness: Readiness | None) -> list[Route]:
    """Liveness and readiness. Uptime counts from this call on."""
    began_at = time.monotonic()

    async def health(exchange: Exchange) -> None:
        """Says that the gateway is responsive, and for how many seconds it has been."""
        uptime_s = int(time.monotonic() - began_at)
        await exchange.reply(
            orjson.dumps({"status": "ok", "uptime_s": uptime_s}), headers=_NO_STORE
        )

    async def ready(exchange: Exchange) -> None:
        """200 if a request would succeed now, else 503; with an admin's key, part by part."""
        report = _STARTING if readiness is None else await readiness.report()
        document: dict[str, Any] = {"status": _WORDS[report.status]}
        if await _is_admin(exchange, authenticator):
            document |= _detail(report)
        status = 503 if report.status == "failed" else 200
        await exchange.reply(orjson.dumps(document), status=status, headers=_NO_STORE)

    alive = Operation(reply=Health, errors=(400,), error=ErrorReply, public=True)
    able = Operation(reply=Ready, errors=(400,), error=ErrorReply, faulty=(503,), public=True)
    return [
        Route("GET", "/health", health, "health", "Liveness probe", alive),
        Route("GET", "/health/live", health, "health_live", "Liveness probe", alive),
        Route("GET", "/health/ready", ready, "health_ready", "Readiness probe", able),
    ]


async def _is_admin(exchange: Exchange, authenticator: Authenticator) -> bool:
    """A key that is no good is no error here: probes go on while the store is away."""
    if exchange.secret is None:
        return False
    try:
        return (await exchange.admit(authenticator)).admin
    except GatewayError:
        return False


def _detail(report: Report) -> dict[str, Any]:
    return {
        "parts": [
            {"name": part.name, "status": _WORDS[part.status], "detail": part.detail}
            for part in report.parts
        ],
        "models": [
            {"id": model.id, "ready": model.ready, "detail": model.detail}
            for model in report.models
        ],
    }
