"""Answers methods that a known path does not have: `OPTIONS`, and 405 for all others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from orchestrator.core.errors import MethodNotAllowed
from orchestrator.http.exchange import Exchange, Scope

_ORDER = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SERVER = "*"
"""The target of an `OPTIONS` that asks about the server. Source: RFC 9110 9.3.7."""


def methods_of(routes: Iterable[BaseRoute], scope: Scope) -> list[str]:
    """The methods that `routes` have for the path of `scope`, then `OPTIONS`; empty if none."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and (
            scope["path"] == SERVER or route.matches(scope)[0] is not Match.NONE
        ):
            found |= route.methods or set()
    return [*(method for method in _ORDER if method in found), "OPTIONS"] if found else []


def options(exchange: Exchange, methods: Sequence[str]) -> Response:
    """The reply to `OPTIONS`. It needs no key: browsers send none with a preflight."""
    reply = Response(status_code=204)
    reply.raw_headers.append((b"allow", ", ".join(methods).encode()))
    if exchange.cors is not None:
        path, headers = exchange.scope["path"], exchange.headers
        reply.raw_headers += exchange.cors.preflight_headers(path, headers, methods)
    return reply


def not_allowed(method: str, path: str, methods: Sequence[str]) -> MethodNotAllowed:
    """The error for a path that has only other `methods`."""
    told = ", ".join(methods)
    message = f"`{method}` is not allowed on `{path}`; there are {told}."
    return MethodNotAllowed(message, allowed=methods)
