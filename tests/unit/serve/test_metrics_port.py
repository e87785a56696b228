"""The port for metrics: what it answers, and that it needs somebody to ask for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from orchestrator.serve import metrics_port
from orchestrator.serve.claims import ClaimError
from orchestrator.serve.metrics_port import MetricsPort
from orchestrator.settings import MetricsSettings
from orchestrator.supervisor.state import State, run_folder, write_state
from orchestrator.telemetry.exposition import Scrape
from orchestrator.telemetry.gathering import ScrapeSocket, socket_folder
from orchestrator.telemetry.instruments import Family, Series, Spec

TIMEOUT_S = 60.0
FAMILY = Family(Spec("a.count", "counter", "", "Counts."), [Series((), 3)])


async def ask(port: MetricsPort, head: str) -> tuple[str, str]:
    """Status line and body of one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
    writer.write(f"{head}\r\n\r\n".encode())
    whole = (await reader.read()).decode()
    writer.close()
    answered, _, body = whole.partition("\r\n\r\n")
    return answered, body


async def test_it_tells_the_numbers_of_all_workers(tmp_path: Path) -> None:
    folder = socket_folder(tmp_path)
    sockets = [
        ScrapeSocket(folder, number, lambda number=number: Scrape(number, [FAMILY]))  # type: ignore[misc]  # bound now
        for number in range(2)
    ]
    for one in sockets:
        await one.start()
    port = MetricsPort(MetricsSettings(port=0), tmp_path)
    await port.open()
    head, body = await ask(port, "GET /metrics?x=1 HTTP/1.1")
    assert head.startswith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    assert 'a_count_total{worker="0"} 3.0' in body
    assert 'a_count_total{worker="1"} 3.0' in body
    head, body = await ask(port, "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text")
    assert "application/openmetrics-text" in head
    assert body.endswith("# EOF\n")
    for one in sockets:
        await one.close()
    await port.close()


@pytest.mark.parametrize("line", ["GET / HTTP/1.1", "POST /metrics HTTP/1.1", "GET", ""])
async def test_it_answers_nothing_else(tmp_path: Path, line: str) -> None:
    port = MetricsPort(MetricsSettings(port=0), tmp_path)
    await port.open()
    assert (await ask(port, line))[0].startswith("HTTP/1.1 404 Not Found")
    await port.close()


@pytest.mark.parametrize(
    "head", ["GET /metrics HTTP/1.1\r\nX: " + "a" * 100_000, "GET / HTTP/1.1" + "\r\nX: y" * 200]
)
async def test_a_head_that_is_too_large_is_refused(tmp_path: Path, head: str) -> None:
    port = MetricsPort(MetricsSettings(port=0), tmp_path)
    await port.open()
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(f"{head}\r\n\r\n".encode())
        # Where more is on its way than is read, the end may be a reset.
        with contextlib.suppress(ConnectionError):
            assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        writer.close()
    await port.close()


async def test_silent_connections_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_port, "_PATIENCE_S", 3600.0)
    port = MetricsPort(MetricsSettings(port=0), tmp_path)
    await port.open()
    async with asyncio.timeout(TIMEOUT_S):
        silent = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(100)]
        reading = {asyncio.create_task(_end(reader)) for reader, _ in silent}
        while len(reading) > 64:
            _, reading = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        for _, writer in silent:
            writer.close()
        await asyncio.wait(reading)
        assert (await ask(port, "GET / HTTP/1.1"))[0].startswith("HTTP/1.1 404")
    await port.close()


async def test_a_silent_connection_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "_PATIENCE_S", 1.0)
    port = MetricsPort(MetricsSettings(port=0), tmp_path)
    await port.open()
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        await _end(reader)
        writer.close()
    await port.close()


async def _end(reader: asyncio.StreamReader) -> None:
    """The server closes without a word."""
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""


async def test_a_client_that_reads_nothing_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_port, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(metrics_port, "_NOT_FOUND", b"x" * 32 * 1024 * 1024)
    port = MetricsPort(MetricsSettings(port=0), tmp_path)
    await port.open()
    async with asyncio.timeout(TIMEOUT_S):
        with socket.create_connection(("127.0.0.1", port.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while port.open_connections != 1:  # noqa: ASYNC110  # nothing reports it
                await asyncio.sleep(0.05)
            while port.open_connections:  # noqa: ASYNC110  # nothing reports it
                await asyncio.sleep(0.05)
            connection.settimeout(TIMEOUT_S)
            received = 0
            with contextlib.suppress(ConnectionError):
                while piece := connection.recv(1024 * 1024):
                    received += len(piece)
        assert received < 32 * 1024 * 1024
    await port.close()


async def test_without_a_triton_of_ours_there_is_nothing_to_tell_of_it(tmp_path: Path) -> None:
    port = MetricsPort(MetricsSettings(port=0), tmp_path)
    await port.open()
    assert (await ask(port, "GET /metrics/triton HTTP/1.1"))[0].startswith("HTTP/1.1 503")
    run_folder(tmp_path).mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        write_state(tmp_path, State("ready", metrics_port=free.getsockname()[1]))
        assert (await ask(port, "GET /metrics/triton HTTP/1.1"))[0].startswith("HTTP/1.1 503")
    await port.close()


async def test_what_triton_tells_is_passed_on(tmp_path: Path) -> None:
    text = b"# TYPE nv_x gauge\nnv_x 1\n"

    async def triton(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(triton, "127.0.0.1", 0)
    run_folder(tmp_path).mkdir(parents=True)
    write_state(tmp_path, State("ready", metrics_port=server.sockets[0].getsockname()[1]))
    port = MetricsPort(MetricsSettings(port=0), tmp_path)
    await port.open()
    head, body = await ask(port, "GET /metrics/triton HTTP/1.1")
    assert head.startswith("HTTP/1.1 200")
    assert body == text.decode()
    await port.close()
    server.close()
    await server.wait_closed()


async def test_a_port_is_opened_only_if_settings_name_one(tmp_path: Path) -> None:
    port = MetricsPort(MetricsSettings(), tmp_path)
    await port.open()
    assert port.port is None
    await port.close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(ClaimError, match=str(number)):
            await MetricsPort(MetricsSettings(port=number), tmp_path).open()
