"""Events are taken without waiting, and what came together is read together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator.core.event_source import EventSource
from orchestrator.core.events import GenerationEvent, PartDelta

TIMEOUT_S = 60.0


class Mailbox(EventSource):
    """Gives what was put into it."""

    def __init__(self) -> None:
        self.box: list[GenerationEvent] = []
        self.closed = False
        self.on_ready: Callable[[], None] = lambda: None

    def take(self) -> list[GenerationEvent]:
        assert not self.over
        events, self.box = self.box, []
        self.over = self.closed
        return events

    def listen(self, on_ready: Callable[[], None]) -> None:
        self.on_ready = on_ready

    def put(self, *texts: str, last: bool = False) -> None:
        self.box += [PartDelta(0, "text", text) for text in texts]
        self.closed = last
        self.on_ready()


def texts(events: list[GenerationEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, PartDelta)]


async def test_what_came_together_is_read_together() -> None:
    async with asyncio.timeout(TIMEOUT_S):
        box = Mailbox()
        box.put("a", "b")
        assert texts(await box.next()) == ["a", "b"]
        reader = asyncio.create_task(box.next())
        await asyncio.sleep(0)
        box.put("c")
        box.put("d")
        assert texts(await reader) == ["c", "d"]


async def test_news_without_an_event_wakes_nobody() -> None:
    async with asyncio.timeout(TIMEOUT_S):
        box = Mailbox()
        reader = asyncio.create_task(box.next())
        for _ in range(3):
            await asyncio.sleep(0)
            box.put()
        assert not reader.done()
        box.put("a")
        assert texts(await reader) == ["a"]


async def test_nothing_is_taken_after_the_end() -> None:
    async with asyncio.timeout(TIMEOUT_S):
        box = Mailbox()
        box.put("a", last=True)
        assert texts(await box.next()) == ["a"]
        assert await box.next() == []
        assert await box.next() == []


async def test_an_end_without_an_event_ends_the_reader() -> None:
    async with asyncio.timeout(TIMEOUT_S):
        box = Mailbox()
        reader = asyncio.create_task(box.next())
        await asyncio.sleep(0)
        box.put(last=True)
        assert await reader == []
        assert [event async for event in box] == []


async def test_a_reader_that_gives_up_loses_nothing() -> None:
    async with asyncio.timeout(TIMEOUT_S):
        box = Mailbox()
        reader = asyncio.create_task(box.next())
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        box.put("a")
        assert texts(await box.next()) == ["a"]
