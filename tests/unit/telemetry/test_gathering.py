"""One question for the numbers of all workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.telemetry.exposition import Scrape
from orchestrator.telemetry.gathering import ScrapeSocket, gather
from orchestrator.telemetry.instruments import Family, Series, Spec

FAMILY = Family(
    Spec("a.time", "histogram", "s", "Lasts.", ("word",), (0.1,)),
    [Series(("w",), 1.5, [1, 2], {1: ("abc", 0.5, 1000.0)})],
)


async def test_every_worker_that_answers_is_heard(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 40) / "metrics"
    sockets = [
        ScrapeSocket(folder, number, lambda number=number: Scrape(number, [FAMILY]))  # type: ignore[misc]  # bound now
        for number in (10, 2)
    ]
    for socket in sockets:
        await socket.start()
    assert folder.stat().st_mode & 0o777 == 0o700
    # A worker that was killed leaves its socket behind.
    (folder / "3.sock").touch()
    (folder / "notes.txt").touch()
    assert await gather(folder) == [Scrape(2, [FAMILY]), Scrape(10, [FAMILY])]
    await sockets[0].close()
    assert [scrape.worker for scrape in await gather(folder)] == [2]
    await sockets[1].close()
    assert not (folder / "2.sock").exists()


async def test_a_new_worker_takes_the_place_of_a_dead_one(tmp_path: Path) -> None:
    (tmp_path / "0.sock").touch()
    socket = ScrapeSocket(tmp_path, 0, lambda: Scrape(0, []))
    await socket.start()
    assert await gather(tmp_path) == [Scrape(0, [])]
    await socket.close()


async def test_a_worker_that_is_stuck_hides_no_other(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    stuck = await asyncio.start_unix_server(hang, tmp_path / "1.sock")
    well = ScrapeSocket(tmp_path, 0, lambda: Scrape(0, []))
    await well.start()
    assert await gather(tmp_path, patience_s=0.05) == [Scrape(0, [])]
    release.set()
    stuck.close()
    await stuck.wait_closed()
    await well.close()


async def test_where_no_worker_is_there_is_nothing(tmp_path: Path) -> None:
    assert await gather(tmp_path / "nowhere") == []
