"""Collects the metrics of all workers: each answers on its own socket.

A worker's metrics are in its memory, so counting costs no file and no lock; the process that is
scraped asks all workers. The sockets are in a folder that only this user can enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from orchestrator.telemetry.exposition import Scrape

_PATIENCE_S = 1.0
"""Seconds that a worker may take; one that hangs must not hide the others."""
_SENT_WITHIN_S = 10.0
"""Seconds that a client may take to read; it gives up long before."""
_SOCKET = re.compile(r"\d+\.sock")


def socket_folder(data_dir: Path) -> Path:
    """The folder of the workers' sockets."""
    return data_dir / "run" / "metrics"


class ScrapeSocket:
    """Sends each client what `look` returns. Close it."""

    def __init__(self, folder: Path, worker: int, look: Callable[[], Scrape]) -> None:
        self._folder = folder
        self._name = f"{worker}.sock"
        self._look = look
        self._encoder = msgspec.msgpack.Encoder()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Starts listening, in place of a worker that has died. Raises: OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._folder / self._name).unlink(missing_ok=True)
        with _short(self._folder) as folder:
            self._server = await asyncio.start_unix_server(self._tell, folder / self._name)

    async def close(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
            (self._folder / self._name).unlink(missing_ok=True)

    async def _tell(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SENT_WITHIN_S):
                # With it, `drain` waits until all is sent.
                writer.transport.set_write_buffer_limits(0)
                writer.write(self._encoder.encode(self._look()))
                await writer.drain()
            writer.close()
        except OSError:
            # The client has stopped reading; the unsent bytes are dropped.
            writer.transport.abort()


async def gather(folder: Path, *, patience_s: float = _PATIENCE_S) -> list[Scrape]:
    """Returns the scrape of every worker, in their order; those that do not answer are left out."""
    names = [path.name for path in _listed(folder) if _SOCKET.fullmatch(path.name)]
    with _short(folder) as short:
        scrapes = await asyncio.gather(*(_ask(short / name, patience_s) for name in names))
    return sorted((one for one in scrapes if one is not None), key=lambda one: one.worker)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


async def _ask(path: Path, patience_s: float) -> Scrape | None:
    try:
        async with asyncio.timeout(patience_s):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return msgspec.msgpack.decode(await reader.read(), type=Scrape)
            finally:
                writer.close()
    except (OSError, msgspec.MsgspecError):
        return None


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[Path]:
    """Yields a shorter path of `folder`, because a socket's path has at most 107 bytes."""
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield folder
        return
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
