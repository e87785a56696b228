"""A server that answers OPA's data API over a real port, by the product's rules or by a fault."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from orchestrator.policy.embedded import gateway_rules
from orchestrator.rego.rules import compile_rules

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The URL of a server that answers OPA's data API with `handler`."""
    app = web.Application()
    app.router.add_post("/v1/data/gateway/authz", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def evaluating(seen: list[dict[str, Any]] | None = None) -> Handler:
    """Answers as OPA does: every rule of the package, under `result`."""
    rules = compile_rules(gateway_rules(), None)

    async def handler(request: web.Request) -> web.StreamResponse:
        document = (await request.json())["input"]
        if seen is not None:
            seen.append({"input": document, "token": request.headers.get("authorization")})
        decision = rules.ask(document)
        return web.json_response({"result": {"decision": decision, "routes": ["local"]}})

    return handler
