"""A port for metrics alone: the values of all workers, and of the Triton that they use.

The parent answers on it, so the last reported values are available even while a worker hangs. It
asks for no key: an operator who binds it beyond the loopback decides who can reach it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path

from orchestrator.serve.claims import ClaimError
from orchestrator.settings import MetricsSettings
from orchestrator.supervisor.triton_metrics import triton_metrics
from orchestrator.telemetry.exposition import TEXT, render
from orchestrator.telemetry.gathering import gather, socket_folder

_MAX_HEAD = 16 * 1024
_MAX_LINES = 128
_MAX_CONNECTIONS = 64
"""Max open at once. More are closed: the parent needs its descriptors for its workers."""
_PATIENCE_S = 10.0
"""Seconds from the connection to the last byte of the reply."""
_NOT_FOUND = b"/metrics has the orchestrator's numbers, /metrics/triton those of its Triton\n"
_TOO_LARGE = f"a head may have {_MAX_HEAD} bytes and {_MAX_LINES} headers at most\n".encode()


class MetricsPort:
    """Open it before the first scrape, close it after the last."""

    def __init__(self, settings: MetricsSettings, data_dir: Path) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._server: asyncio.Server | None = None
        self.open_connections = 0
        """Number of connections being read from or written to."""

    @property
    def port(self) -> int | None:
        """The port where it listens, if it does."""
        if self._server is None:
            return None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def open(self) -> None:
        """Listens, if the settings name a port. Raises: ClaimError."""
        host, port = self._settings.host, self._settings.port
        if port is None:
            return
        try:
            self._server = await asyncio.start_server(self._answer, host, port, limit=_MAX_HEAD)
        except OSError as error:
            raise ClaimError(
                f"port {port} of {host}, for metrics, cannot be listened on: {error.strerror}"
            ) from error

    async def close(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request and closes the connection."""
        if self.open_connections >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self.open_connections += 1
        try:
            async with asyncio.timeout(_PATIENCE_S):
                # With it, `drain` waits until all is sent.
                writer.transport.set_write_buffer_limits(0)
                writer.write(await self._reply_to(reader))
                await writer.drain()
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            # Out of time, or disconnected; unsent bytes are not waited for.
            writer.transport.abort()
        finally:
            self.open_connections -= 1

    async def _reply_to(self, reader: asyncio.StreamReader) -> bytes:
        """Raises: OSError, IncompleteReadError."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.LimitOverrunError:
            return _whole(431, _TOO_LARGE, "text/plain")
        if len(head) > _MAX_LINES + 3:
            return _whole(431, _TOO_LARGE, "text/plain")
        return await self._reply(head[0].split(" "), head[1:])

    async def _reply(self, asked: list[str], headers: Iterable[str]) -> bytes:
        path = asked[1].partition("?")[0] if len(asked) > 1 else ""
        if asked[0] != "GET" or path not in ("/metrics", "/metrics/triton"):
            return _whole(404, _NOT_FOUND, "text/plain")
        if path == "/metrics/triton":
            text = await triton_metrics(self._data_dir)
            return _whole(503 if text is None else 200, text or b"", TEXT)
        accept = next((line for line in headers if line.lower().startswith("accept:")), "")
        return _whole(200, *render(await gather(socket_folder(self._data_dir)), accept))


def _whole(status: int, body: bytes, media_type: str) -> bytes:
    reason = HTTPStatus(status).phrase
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: {media_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
