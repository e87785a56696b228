"""Metrics on the public port: for admins, and only where they have no port of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orchestrator.core.errors import ModelUnavailable
from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import ALWAYS, Operation
from orchestrator.http.queries import require_admin
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.telemetry.exposition import TEXT, of_tenant, render
from orchestrator.telemetry.process import Telemetry

TritonMetrics = Callable[[], Awaitable[bytes | None]]


def routes(
    authenticator: Authenticator, telemetry: Telemetry, triton_metrics: TritonMetrics
) -> list[Route]:
    """The two routes. They need an admin's key."""

    async def own(exchange: Exchange) -> None:
        """The numbers of all workers; of keys, those of the caller's tenant only."""
        principal = await exchange.admit(authenticator)
        require_admin(principal, "read metrics")
        scrapes = of_tenant(await telemetry.scrapes(), principal.tenant_id)
        accept = exchange.headers.get(b"accept", b"").decode("latin-1")
        body, media_type = render(scrapes, accept)
        await exchange.reply(body, media_type=media_type.encode("ascii"))

    async def triton(exchange: Exchange) -> None:
        """The numbers of the supervised Triton, as it tells them."""
        require_admin(await exchange.admit(authenticator), "read metrics")
        if (body := await triton_metrics()) is None:
            raise ModelUnavailable("There is no supervised Triton at work.", retry_after_s=1.0)
        await exchange.reply(body, media_type=TEXT.encode("ascii"))

    told = Operation(
        media=("text/plain", "application/openmetrics-text"),
        errors=(400, 403, *ALWAYS),
        error=ErrorReply,
    )
    return [
        Route("GET", "/metrics", own, "metrics", "Metrics for Prometheus", told),
        Route("GET", "/metrics/triton", triton, "triton_metrics", "Triton's own metrics", told),
    ]
