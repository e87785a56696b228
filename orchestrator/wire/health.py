"""Whether the server answers. Needs no key and touches nothing else."""

from __future__ import annotations

import time

import orjson

from orchestrator.wire.http import Exchange, Route


def routes() -> list[Route]:
    """The liveness route. Uptime counts from this call on."""
    began_at = time.monotonic()

    async def health(exchange: Exchange) -> None:
        """Says that the gateway is responsive, and for how many seconds it has been."""
        uptime_s = int(time.monotonic() - began_at)
        await exchange.reply(orjson.dumps({"status": "ok", "uptime_s": uptime_s}))

    return [Route("GET", "/health", health, "health", "Liveness probe", {"security": []})]
