"""Which dialect is served under which prefix."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from orchestrator import __version__
from orchestrator.core.errors import GatewayError
from orchestrator.health.readiness import Readiness
from orchestrator.http import openapi
from orchestrator.http.edge import Edge
from orchestrator.http.errors import GEMINI_PREFIXES, UnknownRoute, render_error
from orchestrator.http.exchange import Exchange, OnError
from orchestrator.http.faults import internal_error
from orchestrator.http.intake import Intake, new_intake
from orchestrator.http.methods import methods_of, not_allowed, options
from orchestrator.http.queries import ANTHROPIC, GOOGLE, OPENAI
from orchestrator.http.routes import RawRoute, Route, exchange_of
from orchestrator.http.socket_routes import RawSocketRoute, or_no_socket
from orchestrator.keys.authenticator import Authenticator
from orchestrator.pipeline.gateway import Gateway
from orchestrator.settings import (
    HostsSettings,
    IntakeSettings,
    RealtimeSettings,
    ServerSettings,
)
from orchestrator.telemetry.instruments import Registry
from orchestrator.telemetry.process import Telemetry
from orchestrator.wire.anthropic import routes as anthropic_routes
from orchestrator.wire.gemini import embeddings as gemini_embeddings
from orchestrator.wire.gemini import models as gemini_models
from orchestrator.wire.gemini import routes as gemini_routes
from orchestrator.wire.management import health
from orchestrator.wire.openai import completions, tokenize
from orchestrator.wire.openai import embeddings as openai_embeddings
from orchestrator.wire.openai import models as openai_models
from orchestrator.wire.openai.chat import routes as chat_routes
from orchestrator.wire.openai.realtime import routes as realtime_routes

OPENAI_PREFIXES = ("/v1", "/api/v1")
_REALTIME = RealtimeSettings()
_NO_ROUTES: Mapping[str, Sequence[Route]] = MappingProxyType({})
_MAX_SHOWN_OF_PATH = 200
_TOLERATED: Mapping[str, tuple[str, ...]] = {
    "chat": OPENAI,
    "completions": OPENAI,
    "embeddings": OPENAI,
    "responses": OPENAI,
    "realtime": OPENAI,
    "messages": ANTHROPIC,
    "gemini": GOOGLE,
}
"""Parameters that clients send and that change nothing, by the tags of routes."""


class Application(FastAPI):
    """FastAPI, but for the calls to models: none of its layers is on their way.

    `direct` has them by method and path; `edge` answers them, and every error of the others.
    `registry` has what is counted, `socket_paths` are the paths of WebSockets.
    """

    edge: Edge
    registry: Registry
    direct: dict[tuple[str, str], RawRoute]
    socket_paths: set[str]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] == "http":
            route = self.direct.get((scope["method"], scope["path"]))
            if route is not None:
                await self.edge.answer(route, scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def new_app(
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    *,
    server: ServerSettings,
    hosts: HostsSettings,
    on_error: OnError | None = None,
    telemetry: Telemetry | None = None,
    intake: Intake | None = None,
) -> Application:
    """An application without routes, and around it the layer that answers every error.

    `/openapi.json` is served; the pages that show it would load scripts from elsewhere.
    """
    app = Application(
        title="Operayde Gateway API",
        version=__version__,
        # FastAPI's own would write the document anew for each request.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        # Spans and metrics are the orchestrator's own; FastAPI's would come on top of them.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_exception_handler(HTTPException, _routing_failed)
    app.router.default = or_no_socket(app.router.default)
    parts: dict[str, Any] = {
        "server": server,
        "hosts": hosts,
        "on_error": on_error,
        "telemetry": telemetry or Telemetry(),
        "intake": intake or new_intake(IntakeSettings(), server)[0],
    }
    app.registry = parts["telemetry"].metrics.registry
    app.direct = {}
    app.socket_paths = set()
    app.edge = Edge(app, **parts)
    app.add_middleware(Edge, **parts)
    _describe(app)
    return app


def mount(
    app: FastAPI,
    *,
    authenticator: Authenticator,
    gateway: Gateway,
    readiness: Readiness | None = None,
    management: Mapping[str, Sequence[Route]] = _NO_ROUTES,
    metrics: Sequence[Route] = (),
    realtime: RealtimeSettings = _REALTIME,
    drain_s: float = 30.0,
) -> None:
    """Puts the routes of every dialect on `app`, and those of `management` by their tags.

    `metrics` go to the root, where Prometheus looks for them. `app` is one of `new_app`.
    """
    assert isinstance(app, Application)
    _add(app, "", metrics, "metrics")
    probes = health.routes(authenticator, readiness)
    # Google's newer clients call these under `/v1`, the older ones under `/v1beta`.
    methods = [
        *gemini_routes.routes(authenticator, gateway),
        *gemini_embeddings.routes(authenticator, gateway),
    ]
    openai = {
        **_openai_routes(authenticator, gateway, system_fingerprint(app.version)),
        "messages": anthropic_routes.routes(authenticator, gateway),
        "gemini": methods,
        "health": probes,
        **management,
    }
    serve = realtime_routes.session_handler(
        realtime_routes.Parts(authenticator, gateway, realtime, drain_s)
    )
    # vLLM, whose dialect it is, has it at the root.
    _add(app, "", openai["tokenize"], "tokenize")
    for prefix in OPENAI_PREFIXES:
        _add_socket(app, prefix + realtime_routes.PATH, serve)
        for tag, routes in openai.items():
            _add(app, prefix, routes, tag)
    for prefix in GEMINI_PREFIXES:
        _add(app, prefix, [*methods, *gemini_models.routes(authenticator, gateway)], "gemini")
        _add(app, prefix, [_without_models(route) for route in methods], "gemini")
    _add(app, "", probes, "health")


def _openai_routes(
    authenticator: Authenticator, gateway: Gateway, fingerprint: str
) -> dict[str, Sequence[Route]]:
    """The routes of OpenAI's API, by their tags."""
    return {
        "chat": chat_routes.routes(authenticator, gateway, fingerprint),
        "completions": completions.routes(authenticator, gateway, fingerprint),
        "tokenize": tokenize.routes(authenticator, gateway),
        "embeddings": openai_embeddings.routes(authenticator, gateway),
        "models": openai_models.routes(authenticator, gateway),
        "realtime": realtime_routes.routes(),
    }


def system_fingerprint(version: str) -> str:
    """OpenAI's `system_fingerprint`: the same as long as this software is the same."""
    return "fp_" + hashlib.sha256(version.encode()).hexdigest()[:10]


def _add(app: Application, prefix: str, routes: Sequence[Route], tag: str) -> None:
    for route in routes:
        tolerated = _TOLERATED.get(tag, ())
        raw = RawRoute(prefix, route, tag, tolerated)
        app.router.routes.append(raw)
        if route.method == "POST" and "{" not in route.path:
            # The calls to models are among these. Whoever is first has the path, as in a router.
            app.direct.setdefault((route.method, raw.path), raw)
        if route.method == "GET":
            head = replace(route, method="HEAD")
            app.router.routes.append(RawRoute(prefix, head, tag, tolerated))


def _add_socket(app: Application, path: str, serve: Callable[[Exchange], Awaitable[None]]) -> None:
    app.router.routes.append(RawSocketRoute(path, serve, realtime_routes.PARAMETERS))
    app.socket_paths.add(path)


def _without_models(route: Route) -> Route:
    """A method of a model whose id has a slash: the AI SDK puts no `models/` before such an id."""
    path = route.path.removeprefix("/models")
    return replace(route, path=path, name=f"{route.name}_of_id")


async def _routing_failed(request: Request, error: Exception) -> Response:
    """The reply where no route, or none of this method, was found."""
    assert isinstance(error, HTTPException)
    exchange = exchange_of(request.scope)
    methods = methods_of(request.app.router.routes, request.scope)
    if methods and request.method == "OPTIONS":
        return options(exchange, methods)
    fault = _routing_error(request, error, methods)
    rendered = render_error(fault, exchange.profile, exchange.request_id)
    response = Response(rendered.body, rendered.status)
    response.raw_headers += rendered.headers
    return response


def _routing_error(request: Request, error: HTTPException, methods: Sequence[str]) -> GatewayError:
    method, path = request.method, request.url.path[:_MAX_SHOWN_OF_PATH]
    # Such a path is also a model's, by the rule for ids; Google's reply is 404.
    is_unknown = method == "POST" and _is_gemini_method(request)
    if error.status_code == 405 and not is_unknown:
        return not_allowed(method, path, methods)
    if error.status_code in (404, 405):
        return UnknownRoute(f"There is nothing at `{method} {path}`.")
    return internal_error()


def _is_gemini_method(request: Request) -> bool:
    """Whether the path would be a method of a model, for a client of Gemini."""
    is_gemini = exchange_of(request.scope).profile == "gemini"
    return is_gemini and ":" in request.scope["path"].rpartition("/")[2]


def _describe(app: FastAPI) -> None:
    """Lets `/openapi.json` tell of every route as it is mounted."""
    told: dict[str, Any] = {}
    written: list[bytes] = []
    writing = asyncio.Lock()

    def described() -> dict[str, Any]:
        if not told:
            routes = [one.described for one in app.router.routes if isinstance(one, RawRoute)]
            # `HEAD` is `GET` to whoever reads the description.
            listed = (route for route in routes if route.method != "HEAD")
            told.update(openapi.document(app.title, app.version, listed))
        return told

    async def document(request: Request) -> Response:
        exchange_of(request.scope).check_query()
        async with writing:
            if not written:
                # In a thread: it takes seconds, in which the event loop serves others.
                written.append(await asyncio.to_thread(lambda: orjson.dumps(described())))
        return Response(written[0], media_type="application/json")

    app.add_route("/openapi.json", document, include_in_schema=False)
    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend it
