"""Which of several workers accepts a connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from orchestrator.serve.acceptor import Acceptor
from orchestrator.serve.board import Board, Seat
from orchestrator.serve.connections import Connections, Limits, Place
from orchestrator.settings import ServerSettings

TIMEOUT_S = 60.0
COUNT = 32


@pytest.fixture
def memory() -> Iterator[int]:
    """Of two workers."""
    descriptor = Board.memory(2)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        yield listener


class Silent(asyncio.Protocol):
    """A connection that stays open."""

    place: Place | None = None

    def waits_for(self) -> tuple[str, None]:
        return "nothing", None

    def give_up(self, waited_for: str) -> None:
        raise AssertionError(waited_for)


@asynccontextmanager
async def accepting(listener: socket.socket, seat: Seat | None) -> AsyncIterator[Connections]:
    """A worker's part in accepting, over a descriptor of its own, as in a process of its own."""
    connections = Connections(Limits.of(ServerSettings(), 1000))
    with listener.dup() as own:
        acceptor = Acceptor(own, connections, Silent, seat)  # type: ignore[arg-type]
        connections.start()
        try:
            yield connections
        finally:
            acceptor.close()
            connections.stop()
            await acceptor.wait_closed()


async def until_accepted(count: int, *workers: Connections) -> list[int]:
    async with asyncio.timeout(TIMEOUT_S):
        while sum(map(len, workers)) < count:  # noqa: ASYNC110  # nothing reports it
            await asyncio.sleep(0.005)
    return [len(one) for one in workers]


def connect(stack: contextlib.ExitStack, listener: socket.socket) -> socket.socket:
    return stack.enter_context(socket.create_connection(listener.getsockname(), TIMEOUT_S))


def test_what_one_writes_all_others_read(memory: int) -> None:
    board, other = Board(memory, 2), Board(memory, 2)
    assert board.fewest_of_others(0) is None
    other.write(1, 0)
    assert board.fewest_of_others(0) == 0
    assert other.fewest_of_others(1) is None
    other.write(1, 7)
    assert board.fewest_of_others(0) == 7
    assert Seat(board, 0).is_ahead(8)
    assert not Seat(board, 0).is_ahead(7)
    other.leave(1)
    assert board.fewest_of_others(0) is None


def test_one_that_writes_no_more_is_not_waited_for(
    memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(memory, 2)
    board.write(1, 0)
    assert Seat(board, 0).is_ahead(1)
    monkeypatch.setattr("orchestrator.serve.board._STALE_NS", 0)
    assert not Seat(board, 0).is_ahead(1)


async def test_connections_are_shared_equally(listener: socket.socket, memory: int) -> None:
    first, second = (Seat(Board(memory, 2), number) for number in range(2))
    with contextlib.ExitStack() as stack:
        async with accepting(listener, first) as one, accepting(listener, second) as other:
            for _ in range(COUNT):
                connect(stack, listener)
            counts = await until_accepted(COUNT, one, other)
            assert min(counts) >= COUNT // 2 - 2, counts


async def test_one_that_has_fewer_gets_all_until_it_has_as_many(
    listener: socket.socket, memory: int
) -> None:
    first, second = (Seat(Board(memory, 2), number) for number in range(2))
    with contextlib.ExitStack() as stack:
        async with accepting(listener, first) as one:
            for _ in range(COUNT // 2):
                connect(stack, listener)
            await until_accepted(COUNT // 2, one)
            async with accepting(listener, second) as other:
                for _ in range(COUNT // 2):
                    connect(stack, listener)
                    await until_accepted(len(one) + len(other) + 1, one, other)
                assert len(other) >= COUNT // 2 - 2


async def test_what_another_does_not_come_for_is_accepted_all_the_same(
    listener: socket.socket, memory: int
) -> None:
    board = Board(memory, 2)
    # A worker that hangs: it had nothing open when it wrote last.
    board.write(1, 0)
    with contextlib.ExitStack() as stack:
        async with accepting(listener, Seat(board, 0)) as one:
            for _ in range(COUNT):
                connect(stack, listener)
            assert await until_accepted(COUNT, one) == [COUNT]


async def test_a_worker_is_on_the_board_as_long_as_it_accepts(
    listener: socket.socket, memory: int
) -> None:
    board = Board(memory, 2)
    async with accepting(listener, Seat(board, 0)):
        assert board.fewest_of_others(1) == 0
    assert board.fewest_of_others(1) is None
