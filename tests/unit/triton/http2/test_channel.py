"""Calls whose time is over, with one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.triton.http2 import Http2Channel
from orchestrator.triton.transport import DEADLINE_EXCEEDED, Status


@pytest.fixture
async def silent(tmp_path: Path) -> AsyncIterator[Http2Channel]:
    """A channel to a server that takes everything and says nothing."""
    over = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_unix_server(listen, tmp_path / "silent")
    channel = Http2Channel(f"unix:{tmp_path}/silent")
    yield channel
    over.set()
    await channel.close()
    server.close()
    await server.wait_closed()


class Ends:
    """When each call ended, in seconds from the beginning."""

    def __init__(self, channel: Http2Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self.at: dict[str, float] = {}
        self.all = asyncio.Event()
        """Set with the end of the call named `last`."""
        self.next: dict[str, tuple[str, float]] = {}
        """Calls that begin when another one ends."""

    def start(self, name: str, timeout_s: float) -> None:
        def end(status: Status) -> None:
            assert status.code == DEADLINE_EXCEEDED
            self.at[name] = self._loop.time() - self._began_at
            if name == "last":
                self.all.set()
            if name in self.next:
                self.start(*self.next[name])

        self._channel.start(
            "ModelReady",
            b"",
            metadata=[("a", "b")],
            timeout_s=timeout_s,
            on_message=lambda _: None,
            on_end=end,
        )


async def test_every_call_ends_when_its_own_time_is_over(silent: Http2Channel) -> None:
    ends = Ends(silent)
    # The latest first, so that the timer has to move; one begins while others end.
    ends.next["second"] = ("fourth", 0.1)
    for name, timeout_s in (("third", 0.3), ("first", 0.1), ("second", 0.2), ("last", 0.5)):
        ends.start(name, timeout_s)
    await ends.all.wait()
    due = {"first": 0.1, "second": 0.2, "third": 0.3, "fourth": 0.3, "last": 0.5}
    assert ends.at.keys() == due.keys()
    for name, due_at in due.items():
        assert due_at - 0.01 <= ends.at[name] < due_at + 1


async def test_a_call_that_has_ended_leaves_the_timer_to_the_others(silent: Http2Channel) -> None:
    ends = Ends(silent)
    over: list[Status] = []
    short = silent.start(
        "ModelReady", b"", metadata=(), timeout_s=0.1, on_message=print, on_end=over.append
    )
    ends.start("last", 0.3)
    short.cancel()
    assert len(over) == 1
    await ends.all.wait()
    assert ends.at["last"] >= 0.29
    assert len(over) == 1
