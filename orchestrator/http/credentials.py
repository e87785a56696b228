"""Finds the client's key: in a header, a WebSocket subprotocol, or the query on Google's paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

from orchestrator.http.errors import is_gemini
from orchestrator.keys.secret import is_key_secret

_HEADERS = (b"x-api-key", b"x-goog-api-key", b"api-key")
"""The key headers of Anthropic, Google and Azure."""
_SUBPROTOCOL = "openai-insecure-api-key."


def secret_of(scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> str | None:
    """The caller's key, from any of the four headers that clients use, or from the query.

    A client that must fill one of them may send a dummy there and the real key in another one. So
    the first value with the format of a key counts; without one, the first value.
    """
    first = None
    for secret in _given(scope, headers):
        if is_key_secret(secret):
            return secret
        first = first or secret
    return first


def _given(scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> Iterator[str]:
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and (secret := credentials.strip()):
        yield secret.decode("latin-1")
    for name in _HEADERS:
        if secret := headers.get(name, b"").strip():
            yield secret.decode("latin-1")
    if in_address := _secret_of_query(scope):
        yield in_address


def secret_of_subprotocols(scope: Mapping[str, Any]) -> str | None:
    """The key among the offered subprotocols: browsers cannot send a header with an upgrade."""
    offered: list[str] = scope.get("subprotocols", [])
    keys = (one for one in offered if one.startswith(_SUBPROTOCOL))
    return next(keys, "").removeprefix(_SUBPROTOCOL) or None


def _secret_of_query(scope: Mapping[str, Any]) -> str | None:
    """The key in `?key=`, as Google's clients send it; on their paths only, as URLs are logged."""
    query: bytes = scope.get("query_string", b"")
    if b"key=" not in query or not is_gemini(scope["path"]):
        return None
    return parse_qs(query.decode("latin-1")).get("key", [None])[0]
