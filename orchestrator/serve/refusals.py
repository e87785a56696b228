"""The reply to an unreadable request, in the format of its dialect if that is known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from orchestrator.core.errors import (
    GatewayError,
    HeadTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    RequestTimeout,
)
from orchestrator.core.ids import new_id
from orchestrator.http.cors import Cors
from orchestrator.http.errors import Headers, profile_of, render_error
from orchestrator.http.paths import plain_path
from orchestrator.serve.heads import Refused
from orchestrator.settings import HostsSettings, ServerSettings

logger = logging.getLogger(__name__)


class _UnknownCoding(InvalidRequest):
    status = 501


class _UnknownVersion(InvalidRequest):
    status = 505


class _NoProxy(MethodNotAllowed):
    """`CONNECT`, whose target is another server; so no other method would be allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, allowed=())


_KINDS: Mapping[int, Callable[[str], GatewayError]] = {
    HeadTooLarge.status: HeadTooLarge,
    MethodNotAllowed.status: _NoProxy,
    RequestTimeout.status: RequestTimeout,
    _UnknownCoding.status: _UnknownCoding,
    _UnknownVersion.status: _UnknownVersion,
}


def refused_by(error: httptools.HttpParserError) -> Refused:
    """Returns what the parser, or one of its callbacks, found wrong."""
    if isinstance(error.__context__, Refused):
        return error.__context__
    if isinstance(error, httptools.HttpParserCallbackError):
        return Refused(400, "The request cannot be read.")
    # A fixed text of llhttp's that contains nothing of the request.
    return Refused(400, f"The request is not valid HTTP/1.1: {error}.")


def refusal(
    refused: Refused,
    target: bytes,
    host: bytes,
    hosts: HostsSettings,
    server: ServerSettings,
    headers: Headers,
) -> bytes:
    """Returns the whole reply, after which the connection is closed.

    `target`, `host` and `headers` are those of the request, as far as they could be read.
    """
    kind = _KINDS.get(refused.status, InvalidRequest)
    path = plain_path(target.partition(b"?")[0]).decode("latin-1")
    profile = profile_of(path, host.decode("latin-1"), None, None, hosts)
    request_id = new_id("req")
    rendered = render_error(kind(refused.message), profile, request_id)
    logger.warning("request %s was refused: %s", request_id, refused.message)
    origin = next((value for name, value in headers if name == b"origin"), None)
    told = [
        *rendered.headers,
        *Cors(server).reply_headers(path, origin),
        (b"x-request-id", request_id.encode("ascii")),
        (b"content-length", b"%d" % len(rendered.body)),
        (b"connection", b"close"),
    ]
    lines = [b"%b: %b\r\n" % header for header in told]
    return b"".join([STATUS_LINE[refused.status], *lines, b"\r\n", rendered.body])
