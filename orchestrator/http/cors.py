"""Which web pages may read replies: cross-origin resource sharing.

Source: fetch.spec.whatwg.org 3.3. Requests of a page carry no cookies, only a key that the page has
itself, so replies never allow credentials. Starlette's middleware does not fit: calls to models
pass no middleware, and it has one list of origins for all routes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from orchestrator.core.origins import ANY_ORIGIN
from orchestrator.http.errors import Headers, is_under
from orchestrator.settings import ServerSettings

EXPOSED = (
    "accept-encoding", "allow", "ratelimit", "ratelimit-policy", "request-id", "retry-after",
    "retry-after-ms", "server-timing", "www-authenticate", "x-op-model", "x-op-policy-rule",
    "x-op-route", "x-op-route-reason", "x-op-warning", "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens", "x-request-id", "x-should-retry",
)  # fmt: skip
"""Reply headers that pages may read, in addition to those that every page may read."""

_MANAGEMENT = (
    "/metrics",
    *(
        f"{prefix}/{name}"
        for prefix in ("/v1", "/api/v1")
        for name in ("audit", "keys", "policies", "usage")
    ),
)
_MAX_AGE_S = b"7200"
"""How long a browser may cache a preflight reply; it is the maximum in Chromium."""
_VARY = (b"vary", b"Origin")
_EXPOSE = (b"access-control-expose-headers", ", ".join(EXPOSED).encode())
_ALLOW_ORIGIN = b"access-control-allow-origin"
_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_MAX_NAMES_BYTES = 4096


class Cors:
    """Makes the CORS headers of replies. Management routes have their own list of origins."""

    def __init__(self, settings: ServerSettings) -> None:
        self._of_calls = frozenset(one.encode() for one in settings.cors_origins)
        self._of_management = frozenset(one.encode() for one in settings.cors_management_origins)

    @property
    def is_on(self) -> bool:
        """Whether any origin is allowed."""
        return bool(self._of_calls or self._of_management)

    def reply_headers(self, path: str, origin: bytes | None) -> Headers:
        """The CORS headers of a reply to a request for `path` from a page of `origin`."""
        origins = self._of_management if is_under(path, _MANAGEMENT) else self._of_calls
        if not origins:
            return []
        if ANY_ORIGIN.encode() in origins:
            return [(_ALLOW_ORIGIN, b"*"), _EXPOSE]
        if origin is None or origin not in origins:
            # A cache must not serve this reply to a page of an allowed origin.
            return [_VARY]
        return [_VARY, (_ALLOW_ORIGIN, origin), _EXPOSE]

    def preflight_headers(
        self, path: str, headers: Mapping[bytes, bytes], methods: Iterable[str]
    ) -> Headers:
        """The headers of the reply to a preflight `OPTIONS`, in addition to `reply_headers`.

        Empty if the request is not a preflight. A page may send any headers: its SDK chooses them.
        """
        is_asked = b"access-control-request-method" in headers
        allowed = self.reply_headers(path, headers.get(b"origin"))
        if not is_asked or not any(name == _ALLOW_ORIGIN for name, _ in allowed):
            return []
        reply = [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-max-age", _MAX_AGE_S),
            (b"vary", b"Access-Control-Request-Headers"),
        ]
        wanted = headers.get(b"access-control-request-headers", b"").strip()
        if len(wanted) <= _MAX_NAMES_BYTES and _NAMES.fullmatch(wanted):
            reply.append((b"access-control-allow-headers", wanted))
        if headers.get(b"access-control-request-private-network") == b"true":
            reply.append((b"access-control-allow-private-network", b"true"))
        return reply


def cors_of(settings: ServerSettings) -> Cors | None:
    """The CORS rules of `settings`; `None` if they allow no origin."""
    cors = Cors(settings)
    return cors if cors.is_on else None
