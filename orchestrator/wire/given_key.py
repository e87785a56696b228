"""Where clients put their key: a header, a subprotocol of a WebSocket, Google's address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from orchestrator.wire.errors import is_gemini

_SUBPROTOCOL = "openai-insecure-api-key."


def secret_of(scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> str | None:
    """The caller's key, from any of the three headers that clients use, or the address."""
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and (secret := credentials.strip()):
        return secret.decode("latin-1")
    for name in (b"x-api-key", b"x-goog-api-key"):
        if secret := headers.get(name, b"").strip():
            return secret.decode("latin-1")
    return _secret_of_query(scope)


def secret_of_subprotocols(scope: Mapping[str, Any]) -> str | None:
    """The key among the offered subprotocols: browsers can send no header with an upgrade."""
    offered: list[str] = scope.get("subprotocols", [])
    keys = (one for one in offered if one.startswith(_SUBPROTOCOL))
    return next(keys, "").removeprefix(_SUBPROTOCOL) or None


def _secret_of_query(scope: Mapping[str, Any]) -> str | None:
    """`?key=`, as Google's clients send it; on Google's paths only, for addresses get logged."""
    query: bytes = scope.get("query_string", b"")
    if b"key=" not in query or not is_gemini(scope["path"]):
        return None
    return parse_qs(query.decode("latin-1")).get("key", [None])[0]
