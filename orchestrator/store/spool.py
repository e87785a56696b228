"""Writes to the database without waiting for it: through a journal, then with group commits.

When a call returns, the operating system has the line, so a SIGKILL of this process loses nothing.
The line is on the disk within `sync_interval_s` and the time of one `fdatasync`, and in the
database within `commit_interval_s`, or as soon as the database is back. `commit` may get a payload
twice (after a crash between commit and removal), so it must be idempotent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from orchestrator.core.errors import StoreUnavailable
from orchestrator.settings import BooksSettings
from orchestrator.store.database import StoreError
from orchestrator.store.journal import SEGMENT_BYTES, Cursor, Journal, adopt_dead
from orchestrator.store.private_files import prepare_folder

logger = logging.getLogger(__name__)

Commit = Callable[[Sequence[bytes]], Awaitable[None]]
T = TypeVar("T")

_BACKOFF_S = (0.25, 0.5, 1.0, 2.0)
_REMIND_EVERY_S = 30.0
_LOOK_FOR_DEAD_EVERY_S = 20.0
_TIDY_BYTES = 256 * 1024
_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How far the disk and the database may lag behind, and how large the journal may grow.

    `reserve_bytes` of disk space are reserved ahead for the lines of work that has started.
    """

    sync_interval_s: float = 0.02
    commit_interval_s: float = 0.2
    most_bytes: int = 1024 * 1024 * 1024
    reserve_bytes: int = SEGMENT_BYTES

    @classmethod
    def of(cls, books: BooksSettings) -> Pace:
        """Returns the values of the settings."""
        return cls(
            books.sync_interval_s,
            books.commit_interval_s,
            books.journal_max_bytes,
            books.journal_reserve_bytes,
        )


class Spool:
    """One journal and its commits to the database. Call `start` before use, `close` afterwards.

    `what` names the content in messages. `promise` and `record` also work after `close`: the next
    start finds what they wrote.
    """

    def __init__(self, what: str, folder: Path, commit: Commit, pace: Pace) -> None:
        self._what = what
        self._folder = folder
        self._commit = commit
        self._pace = pace
        self._journal = Journal(folder, segment_bytes=pace.reserve_bytes)
        self._cursor = Cursor(self._journal.segments)
        self._adopted: deque[Cursor] = deque()
        self._taken_at_most = -1
        """When the journal has accepted this many bytes in all, its size must be checked again."""
        self._promised: dict[str, bytes] = {}
        self._unsynced, self._news = asyncio.Event(), asyncio.Event()
        self._closing = asyncio.Event()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix=f"{what}-journal")
        self._closed: asyncio.Task[Literal[True]]
        self._tasks: list[asyncio.Task[None]] = []
        self._failing_since: float | None = None
        self._failure = ""
        self._reminded_at = 0.0

    def start(self) -> None:
        """Raises: SettingsError when the folder cannot be written."""
        prepare_folder(self._folder.parent, "data_dir")
        prepare_folder(self._folder, "data_dir")
        # Accept no work before there is room to record it.
        self._journal.reserve_ahead()
        self._closed = asyncio.create_task(self._closing.wait())
        for work in (self._sync_forever, self._commit_forever, self._adopt_forever):
            self._tasks.append(asyncio.create_task(self._again_and_again(work)))

    async def close(self) -> None:
        """Commits what the database accepts; the rest waits for the next start."""
        if self._closing.is_set():
            return
        self._closing.set()
        for event in (self._unsynced, self._news):
            event.set()
        await asyncio.gather(*self._tasks)
        if self._cursor.has_read_all() and self._failing_since is None:
            self._journal.close_current()
            await self._off_loop(partial(self._cursor.drop_read, all_read=True))
        await self._off_loop(self._sync)
        self._disk.shutdown()
        # A process that looks for journals of dead processes may take the rest.
        self._journal.release()
        for cursor in self._adopted:
            cursor.release()

    def promise(self, line_id: str, payload: bytes) -> None:
        """Writes a provisional record, used only if the process dies before the final one."""
        if self._promised.get(line_id) == payload:
            return
        self._promised[line_id] = payload
        self._journal.append("P", line_id, payload)
        self._unsynced.set()

    def record(self, line_id: str, payload: bytes) -> None:
        """Writes the final record of `line_id`."""
        if self._promised.pop(line_id, None) == payload:
            self._journal.hold("C", line_id)
        else:
            self._journal.append("R", line_id, payload)
            self._unsynced.set()
        self._news.set()

    def check(self) -> None:
        """Raises: StoreUnavailable when the journal takes no more."""
        journal = self._journal
        is_writable = journal.fault is None and journal.shortage is None
        if is_writable and journal.taken <= self._taken_at_most:
            return
        # Commits since the last check have made room; only new lines use it.
        room = self._pace.most_bytes - self._bytes()
        self._taken_at_most = journal.taken + room
        if not is_writable or room < 0:
            raise StoreUnavailable(
                "Requests cannot be recorded at the moment.",
                retry_after_s=_RETRY_AFTER_S,
                retryable=True,
            )

    def problems(self) -> list[str]:
        """Returns what is wrong, in sentences for the operator."""
        found = []
        if self._journal.fault is not None:
            found.append(f"the journal of {self._what} cannot be written: {self._journal.fault}")
        elif self._journal.shortage is not None:
            found.append(
                f"no disk space can be reserved for the journal of {self._what}"
                f" ({self._pace.reserve_bytes} bytes): {self._journal.shortage}"
            )
        if self._failing_since is not None:
            waited_s = time.monotonic() - self._failing_since
            found.append(
                f"{self._what} has not reached the database for {waited_s:.0f} s and waits in the "
                f"journal ({self._bytes()} bytes): {self._failure}"
            )
        if self._bytes() > self._pace.most_bytes:
            found.append(
                f"the journal of {self._what} is full: {self._bytes()} bytes,"
                f" {self._pace.most_bytes} are allowed"
            )
        return found

    def _bytes(self) -> int:
        adopted = sum(cursor.waiting for cursor in self._adopted)
        return self._journal.held + self._cursor.waiting + adopted

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` repeatedly until the spool closes, even if it fails."""
        while True:
            try:
                await work()
            except _GiveUpError:
                return
            except Exception:
                logger.exception("the journal of %s failed", self._what)
                await self._pause(_BACKOFF_S[-1])
            if self._closing.is_set():
                return

    async def _sync_forever(self) -> None:
        while not self._closing.is_set():
            await self._unsynced.wait()
            await self._pause(self._pace.sync_interval_s)
            self._unsynced.clear()
            if self._journal.fault is not None:
                self._journal.flush()
            await self._off_loop(self._sync)
            if self._journal.fault is not None or self._journal.shortage is not None:
                # No new lines are accepted meanwhile, so nothing else would wake this task.
                await self._pause(_BACKOFF_S[0])
                self._unsynced.set()

    def _sync(self) -> None:
        if not self._closing.is_set():
            self._journal.reserve_ahead()
        try:
            self._journal.sync()
        except OSError as error:
            logger.error("the journal of %s is not safe on the disk: %s", self._what, error)

    async def _commit_forever(self) -> None:
        is_last = False
        while not is_last:
            await self._news.wait()
            await self._pause(self._pace.commit_interval_s)
            is_last = self._closing.is_set()
            if not is_last:
                self._news.clear()
            self._journal.flush()
            await self._drain(self._cursor)
            last = self._journal.segments[-1] if self._journal.segments else None
            if last is not None and last.size > _TIDY_BYTES and self._cursor.has_read_all():
                self._journal.close_current()

    async def _adopt_forever(self) -> None:
        """Adopts journals of dead processes: of the last run, or of a killed neighbour."""
        while not self._closing.is_set():
            dead = await self._off_loop(partial(adopt_dead, self._folder))
            self._adopted.extend(Cursor(segments, dead=True) for segments in dead)
            self._taken_at_most = -1
            while self._adopted:
                logger.warning("%s of a process that was killed is brought in", self._what)
                cursor = self._adopted[0]
                await self._drain(cursor)
                await self._off_loop(partial(cursor.drop_read, all_read=True))
                self._adopted.popleft()
            await self._pause(_LOOK_FOR_DEAD_EVERY_S)

    async def _drain(self, cursor: Cursor) -> None:
        """Commits all lines of `cursor`. Raises: _GiveUpError when closing and it cannot be."""
        while batch := await self._off_loop(cursor.take):
            await self._commit_at_last(batch)
            await self._off_loop(cursor.drop_read)

    async def _commit_at_last(self, batch: Sequence[bytes]) -> None:
        failures = 0
        while True:
            try:
                await self._commit(batch)
            except Exception as error:
                # After any error: these payloads are only in this batch, so retry until it is
                # committed.
                if not isinstance(error, StoreError):
                    logger.exception("%s could not be committed", self._what)
                self._note_failure(str(error))
                if self._closing.is_set():
                    raise _GiveUpError from error
                await self._pause(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
            else:
                self._note_success()
                return

    def _note_failure(self, reason: str) -> None:
        now = time.monotonic()
        self._failure = reason
        if self._failing_since is None:
            self._failing_since = now
        if now - self._reminded_at > _REMIND_EVERY_S:
            self._reminded_at = now
            logger.error("%s waits in the journal: %s", self._what, reason)

    def _note_success(self) -> None:
        if self._failing_since is not None:
            waited_s = time.monotonic() - self._failing_since
            logger.warning("%s reaches the database again after %.1f s", self._what, waited_s)
            self._failing_since, self._reminded_at = None, 0.0

    async def _pause(self, seconds: float) -> None:
        """Sleeps; ends early when the spool closes."""
        await asyncio.wait((self._closed,), timeout=seconds)

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)


class _GiveUpError(Exception):
    """The database does not accept the batch, and the spool closes."""
