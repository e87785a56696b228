"""Reports each HTTP request at its end: a log line, metrics and spans."""

from __future__ import annotations

import logging
import time
from contextvars import Token

from orchestrator.core.errors import GatewayError, RateLimited, Unauthenticated
from orchestrator.http.exchange import Exchange
from orchestrator.telemetry import Call, RequestRecord, log_request, names
from orchestrator.telemetry.calls import read_parent
from orchestrator.telemetry.process import Telemetry

_PROBES = ("/health", "/health/live", "/health/ready", "/metrics", "/metrics/triton")
_SERVER_ERROR = 500
_NO_ROUTE = "none"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestReport:
    """The report of one exchange: created when it arrives, `end`ed when it is finished.

    It holds no reference to the exchange, which holds one to it: a cycle would have to wait for the
    garbage collector.
    """

    __slots__ = ("_active", "_is_probe", "_telemetry", "_token")

    def __init__(self, telemetry: Telemetry, exchange: Exchange) -> None:
        self._telemetry = telemetry
        call, scope = exchange.call, exchange.scope
        if b"traceparent" in exchange.headers:
            call.parent = read_parent(exchange.headers)
        call.is_session = scope["type"] == "websocket"
        exchange.server_timing = telemetry.server_timing
        self._active = telemetry.metrics.http_active.series()
        self._active.value += 1
        # Monitoring sends these every few seconds; they are of no interest while they succeed.
        self._is_probe = scope["path"].endswith(_PROBES)
        self._token: Token[Call | None] = telemetry.begin(
            call, scope["method"], traced=not self._is_probe
        )

    def refused(self, exchange: Exchange, error: GatewayError) -> None:
        """Counts a request that is answered with `error`."""
        metrics = self._telemetry.metrics
        exchange.error = error.code
        metrics.refusals.add(1, str(error.status), refusal_word(error))
        if (caller := exchange.principal) is not None:
            metrics.keys.refused(
                caller.tenant_id, caller.key_id, caller.key_label, refusal_word(error)
            )

    def end(self, exchange: Exchange) -> None:
        """Logs, measures and traces the finished exchange, however it ended."""
        telemetry, call = self._telemetry, exchange.call
        duration_s = (time.perf_counter_ns() - call.began_ns) / 1e9
        scope = exchange.scope
        # The path as registered, so that it holds no text of the caller.
        route = getattr(scope.get("route"), "path", _NO_ROUTE)
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        self._active.value -= 1
        telemetry.metrics.http_duration.record(
            duration_s,
            method,
            route,
            str(exchange.status),
            trace=call.trace if call.sampled else "",
        )
        is_dull = self._is_probe and exchange.status < _SERVER_ERROR
        log_request(_record(exchange, duration_s), logging.DEBUG if is_dull else logging.INFO)
        if call.sampled:
            _describe(exchange, method, route)
        telemetry.finish(
            call, f"{method} {route}", self._token, status=exchange.status, error=exchange.error
        )


def refusal_word(error: GatewayError) -> str:
    """The reason in one word of a closed set: for limits which one, for keys what is wrong."""
    if isinstance(error, RateLimited) and error.hit is not None:
        return f"{error.hit.scope}_{error.hit.kind}"
    return error.detail_reason if isinstance(error, Unauthenticated) else error.code


def _describe(exchange: Exchange, method: str, route: str) -> None:
    scope, call = exchange.scope, exchange.call
    call.attributes |= {
        names.HTTP_METHOD: method,
        names.HTTP_ROUTE: route,
        names.HTTP_STATUS: exchange.status,
        names.URL_SCHEME: scope.get("scheme", "http"),
        names.REQUEST_ID: exchange.request_id,
        names.CALL_ID: exchange.call_id,
    }
    if exchange.client_ip is not None:
        call.attributes[names.CLIENT_ADDRESS] = exchange.client_ip
    if exchange.error:
        call.attributes[names.ERROR_TYPE] = exchange.error
    if (caller := exchange.principal) is not None:
        call.attributes[names.KEY_ID] = caller.key_id
        call.attributes[names.TENANT_ID] = caller.tenant_id


def _record(exchange: Exchange, duration_s: float) -> RequestRecord:
    usage, caller = exchange.usage, exchange.principal
    # Positional arguments: by name, this takes twice as long.
    return RequestRecord(
        exchange.call_id,
        exchange.scope["method"],
        exchange.scope["path"],
        exchange.status,
        duration_s,
        caller.key_id if caller else "-",
        exchange.model,
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
        caller.tenant_id if caller else "-",
        exchange.error,
        exchange.call.first_token_s,
        exchange.call.server,
    )
