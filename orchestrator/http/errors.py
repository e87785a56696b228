"""Renders the error tree for each kind of client: one table, six profiles.

`appliance` is the default. It has the members of other profiles as well, so that clients of other
specifications can read it. Another profile exists only where one JSON value or one status cannot
serve two specifications.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, assert_never

import orjson

from orchestrator.core.errors import (
    Conflict,
    DeploymentNotReady,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    ModelUnavailable,
    NotFound,
    PayloadTooLarge,
    PolicyDenied,
    RateLimited,
    RequestTimeout,
    Unauthenticated,
    UpstreamTimeout,
)
from orchestrator.settings import HostsSettings

Profile = Literal["appliance", "spec", "platform", "buddy", "gemini", "anthropic"]
Headers = list[tuple[bytes, bytes]]

Client = Literal["anthropic", "google"]
"""The provider of the official client, where its headers show it."""

GEMINI_PREFIXES = ("/v1beta", "/api/v1beta")
ANTHROPIC_PREFIXES = ("/v1/messages", "/api/v1/messages")
MODELS_PREFIXES = ("/v1/models", "/api/v1/models")
"""Paths that the clients of OpenAI, Google and Anthropic all use."""

_GEMINI_METHODS = frozenset(
    {
        "generateContent",
        "streamGenerateContent",
        "countTokens",
        "embedContent",
        "batchEmbedContents",
    }
)
DEFAULT_RETRY_AFTER_S = 5.0


class UnknownRoute(NotFound):
    """No route has this path."""

    reason = "unknown_url"


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """A rendered error, ready to be sent."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class _Words:
    """The name of an error's type in the appliance's, platform's, Google's and Anthropic's form."""

    appliance: str
    platform: str
    google: str
    anthropic: str


_WORDS: Mapping[type[GatewayError], _Words] = {
    InvalidRequest: _Words(
        "request", "invalid_request_error", "INVALID_ARGUMENT", "invalid_request_error"
    ),
    PayloadTooLarge: _Words(
        "request", "invalid_request_error", "INVALID_ARGUMENT", "request_too_large"
    ),
    RequestTimeout: _Words(
        "request", "invalid_request_error", "DEADLINE_EXCEEDED", "timeout_error"
    ),
    Unauthenticated: _Words(
        "auth", "authentication_error", "UNAUTHENTICATED", "authentication_error"
    ),
    PolicyDenied: _Words("policy", "permission_error", "PERMISSION_DENIED", "permission_error"),
    UnknownRoute: _Words("request", "not_found_error", "NOT_FOUND", "not_found_error"),
    MethodNotAllowed: _Words("request", "not_found_error", "NOT_FOUND", "not_found_error"),
    NotFound: _Words("not_found", "not_found_error", "NOT_FOUND", "not_found_error"),
    Conflict: _Words("conflict", "conflict_error", "FAILED_PRECONDITION", "conflict_error"),
    DeploymentNotReady: _Words(
        "conflict", "conflict_error", "FAILED_PRECONDITION", "conflict_error"
    ),
    RateLimited: _Words("rate_limit", "rate_limit_error", "RESOURCE_EXHAUSTED", "rate_limit_error"),
    ModelUnavailable: _Words(
        "availability", "service_unavailable_error", "UNAVAILABLE", "overloaded_error"
    ),
    UpstreamTimeout: _Words(
        "availability", "service_unavailable_error", "DEADLINE_EXCEEDED", "timeout_error"
    ),
    GatewayError: _Words("server", "internal_server_error", "INTERNAL", "api_error"),
}


def profile_of(
    path: str,
    host: str,
    secret: str | None,
    error_format: str | None,
    hosts: HostsSettings,
    *,
    client: Client | None = None,
) -> Profile:
    """The profile of an error reply. Source: `docs/wire.md`, rule by rule.

    `client` decides on paths that several dialects share.
    """
    profile = _profile_by_address(path, host, secret, hosts)
    if client == "google" and is_under(path, MODELS_PREFIXES):
        profile = "gemini"
    elif client == "anthropic" and profile != "gemini" and not is_under(path, ("/v1/keys",)):
        profile = "anthropic"
    if error_format == "flat":
        return "spec"
    if error_format == "nested" and profile == "spec":
        return "appliance"
    return profile


def render_error(error: GatewayError, profile: Profile, request_id: str) -> ErrorReply:
    """The whole reply for `error`, without its request id header."""
    return ErrorReply(
        status=_status(error, profile),
        headers=_headers(error),
        body=orjson.dumps(error_members(error, profile, request_id)),
    )


def error_members(error: GatewayError, profile: Profile, request_id: str) -> dict[str, Any]:
    """The error as JSON members, for a body or for a chunk of a stream."""
    match profile:
        case "appliance":
            return _appliance(error, request_id)
        case "spec":
            flat = {"error": error.code, "code": error.code, "detail": error.message}
            if isinstance(error, InvalidRequest) and error.param is not None:
                flat["param"] = error.param
            return {**flat, "request_id": request_id}
        case "platform" | "buddy":
            return _platform(error, profile, request_id)
        case "gemini":
            return _gemini(error, request_id)
        case "anthropic":
            return _anthropic(error, request_id)
        case _:
            assert_never(profile)


def _profile_by_address(path: str, host: str, secret: str | None, hosts: HostsSettings) -> Profile:
    if is_gemini(path):
        return "gemini"
    if is_under(path, ANTHROPIC_PREFIXES):
        return "anthropic"
    if is_under(path, ("/api/v1",)):
        return "platform"
    if is_under(path, ("/v1/keys",)):
        return "spec"
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if any(fnmatchcase(name.lower(), pattern.lower()) for pattern in hosts.spec):
        return "spec"
    if any(fnmatchcase(name.lower(), pattern.lower()) for pattern in hosts.proxy):
        return "buddy"
    if secret is not None and secret.startswith("ob_sk_"):
        return "buddy"
    return "appliance"


def is_gemini(path: str) -> bool:
    """Whether only Gemini clients use `path`; newer ones call methods under `/v1`."""
    if is_under(path, GEMINI_PREFIXES):
        return True
    return is_under(path, MODELS_PREFIXES) and path.rpartition(":")[2] in _GEMINI_METHODS


def is_under(path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether `path` is one of `prefixes` or below one."""
    # The cheap check first: most paths match none.
    return path.startswith(prefixes) and any(
        path == prefix or path.startswith(prefix + "/") for prefix in prefixes
    )


def _words(error: GatewayError) -> _Words:
    return next(_WORDS[kind] for kind in type(error).__mro__ if kind in _WORDS)


def _lacks_key(error: GatewayError) -> bool:
    return isinstance(error, Unauthenticated) and error.detail_reason == "missing_api_key"


def _status(error: GatewayError, profile: Profile) -> int:
    return 400 if profile == "buddy" and _lacks_key(error) else error.status


def _appliance(error: GatewayError, request_id: str) -> dict[str, Any]:
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "type": _words(error).appliance,
            "param": error.param,
            "request_id": request_id,
            "reason": error.detail_reason,
            "limit": _limit(error),
        },
        "code": error.code,
        "detail": error.message,
    }


def _limit(error: GatewayError) -> dict[str, Any] | None:
    if not isinstance(error, RateLimited) or error.hit is None:
        return None
    hit = error.hit
    return {
        "scope": hit.scope,
        "kind": hit.kind,
        "limit": hit.limit,
        "remaining": hit.remaining,
        "reset_at": hit.reset_at,
    }


def _platform(
    error: GatewayError, profile: Literal["platform", "buddy"], request_id: str
) -> dict[str, Any]:
    kind, code = _words(error).platform, error.detail_reason
    if _lacks_key(error):
        kind = "invalid_request_error" if profile == "buddy" else kind
    elif isinstance(error, Unauthenticated):
        code = "invalid_api_key"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "code": code,
            "param": error.param,
            "request_id": request_id,
        },
        "code": code,
        "detail": error.message,
    }


def _gemini(error: GatewayError, request_id: str) -> dict[str, Any]:
    words = _words(error)
    return {
        "error": {
            "code": error.status,
            "message": error.message,
            "status": words.google,
            "type": words.platform,
            "reason": error.detail_reason,
            "request_id": request_id,
        }
    }


def _anthropic(error: GatewayError, request_id: str) -> dict[str, Any]:
    return {
        "type": "error",
        "error": {
            "type": _words(error).anthropic,
            "message": error.message,
            "details": {"error_code": error.detail_reason},
        },
        "request_id": request_id,
    }


def _headers(error: GatewayError) -> Headers:
    headers: Headers = [(b"content-type", b"application/json")]
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    wait_s = error.retry_after_s
    if wait_s is None and isinstance(error, ModelUnavailable):
        wait_s = DEFAULT_RETRY_AFTER_S
    if wait_s is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(wait_s)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(wait_s * 1000)))
    if isinstance(error, PolicyDenied) and error.rule:
        headers.append((b"x-op-policy-rule", error.rule.encode("ascii", "replace")))
    if error.retryable is False:
        headers.append((b"x-should-retry", b"false"))
    # The limits; we make them, so they are ASCII.
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    return headers
