"""Fetches the supervised Triton's own metrics from its current port."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.supervisor.state import read_state

_PATIENCE_S = 5.0
_ASKING = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_OK = b"HTTP/1.1 200"


async def triton_metrics(data_dir: Path) -> bytes | None:
    """Returns its text for Prometheus; `None` if no Triton of ours is running."""
    state = read_state(data_dir)
    if state is None or state.metrics_port is None or state.phase not in ("starting", "ready"):
        return None
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", state.metrics_port)
            try:
                writer.write(
                    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                head = await reader.readuntil(b"\r\n\r\n")
                length = _length(head)
                body = await (reader.read() if length is None else reader.readexactly(length))
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None
    return body if head.startswith(_OK) else None


def _length(head: bytes) -> int | None:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None
