"""Makes used tokens durable before the caller gets its answer: in a journal, then in the store.

Every line is in the file when `append` returns, so the death of the process loses none. Groups of
lines are synced to the disk and added to the store in the background. The store records the last
line in the same transaction, so a line is added once, however often it is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson

from orchestrator.core.ids import new_id
from orchestrator.quota import token_days
from orchestrator.quota.counters import Change, Counter
from orchestrator.quota.token_days import DayKey
from orchestrator.store.append import append
from orchestrator.store.database import Database, StoreError
from orchestrator.store.private_files import prepare_folder
from orchestrator.store.space import reserve

_log = logging.getLogger(__name__)

_SYNC_EVERY_S = 0.02
_STORE_EVERY_S = 0.5
_RETRY_S = 1.0
_CLOSE_S = 3.0
_FORGET_OVER_BYTES = 64 * 1024
_RESERVE_BYTES = 1024 * 1024
"""Disk space reserved after the last line. Lines here are a quarter as long as usage records, whose
journal refuses new requests when the disk is full: running requests then still have room.
"""
_KEEP_OWNERS_S = 7 * 86_400
_SUFFIX = ".journal"


class Line(msgspec.Struct, frozen=True):
    """Changes that belong together. `number` grows by one with every line of an owner."""

    owner: str
    number: int
    changes: tuple[Change, ...]


@dataclass(slots=True)
class _Group:
    """Lines to be added to the store, summed by owner."""

    last: dict[str, int] = field(default_factory=dict)
    used: dict[str, dict[DayKey, int]] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Adds `line`."""
        sums = self.used.setdefault(line.owner, {})
        for change in line.changes:
            key = _day_key(change.counter)
            sums[key] = sums.get(key, 0) + change.used
        self.last[line.owner] = line.number


class TokenJournal:
    """The journal of one process. Call `start` before use, `close` afterwards.

    `may_forget` says whether lines may be removed once they are in the store.
    """

    def __init__(
        self, folder: Path, database: Database, *, now: Callable[[], float] = time.time
    ) -> None:
        """Raises: SettingsError when `folder` cannot be made."""
        prepare_folder(folder, "data_dir")
        self._folder = folder
        self._database = database
        self._now = now
        self._number = 0
        self._next = _Group()
        self._flying: _Group | None = None
        self._storing = asyncio.Lock()
        self._unsynced = asyncio.Event()
        self._unstored = asyncio.Event()
        self._is_behind = False
        """Whether both events are set for the last line appended."""
        self._failed = False
        self._closing = asyncio.Event()
        self._closed: asyncio.Task[Literal[True]]
        self._tasks: list[asyncio.Task[None]] = []
        self._left: list[_LeftFile] = []
        self.may_forget: Callable[[], bool] = lambda: True
        self.owner = ""
        self.new_owner()
        self._path = folder / f"{self.owner}{_SUFFIX}"
        self._file = -1
        self._size = 0
        self._reserved = 0
        self._lacks_space = False
        self._times_emptied = 0

    def new_owner(self) -> str:
        """Starts a new owner, to whom all later lines belong. Returns its id."""
        self.owner, self._number = new_id("own"), 0
        return self.owner

    async def start(self) -> None:
        """Adds the lines of dead processes to the store. Raises: StoreError."""
        for left in _left_files(self._folder):
            await self._recover(left.lines)
            self._left.append(left)
        async with self._database.unit_of_work() as session:
            await token_days.forget_owners(session, int((self._now() - _KEEP_OWNERS_S) * 1000))
        try:
            # Before the first request, so that space is reserved for it.
            self._open()
            await asyncio.to_thread(self._sync)
        except OSError as error:
            _log.error("the journal `%s` cannot be written: %s", self._path, error.strerror)
        self._closed = asyncio.create_task(self._closing.wait())
        self._tasks = [
            asyncio.create_task(self._sync_forever()),
            asyncio.create_task(self._store_forever()),
        ]

    @property
    def recovered(self) -> list[Line]:
        """The lines of dead processes, until `forget_recovered`."""
        return [line for left in self._left for line in left.lines]

    def forget_recovered(self) -> None:
        """Removes the files of dead processes."""
        while self._left:
            self._left.pop().remove()

    async def close(self) -> None:
        """Stores the remaining lines if possible; otherwise the file stays."""
        self._closing.set()
        self._unsynced.set()
        self._unstored.set()
        if self._tasks:
            # Not cancelled at once: a connection whose query is interrupted is not closed cleanly.
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.store()
            if self.may_forget():
                self._path.unlink(missing_ok=True)
                self.forget_recovered()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def append(self, changes: Sequence[Change]) -> Line:
        """Writes `changes` as a line; used tokens are then in the file. Never raises."""
        self._number += 1
        line = Line(self.owner, self._number, tuple(changes))
        used = tuple([one for one in changes if one.used and one.counter.kind == "tpd"])
        if used:
            kept = line if len(used) == len(changes) else Line(self.owner, self._number, used)
            try:
                self._write(kept)
            except OSError as error:
                _log.error("the journal `%s` cannot be written: %s", self._path, error.strerror)
            self._next.add(kept)
            if not self._is_behind:
                self._is_behind = True
                self._unsynced.set()
                self._unstored.set()
        return line

    async def used_on(self, day: str) -> Mapping[Counter, int]:
        """Returns what all keys and tenants used on `day`. Raises: StoreError."""
        async with self._database.reading() as session:
            rows = await token_days.used_on(session, day)
        return {_counter(key): used for key, used in rows.items()}

    async def used(self, counter: Counter) -> int:
        """Returns the used tokens of one counter, as the store has them. Raises: StoreError."""
        async with self._database.reading() as session:
            return await token_days.used(session, _day_key(counter))

    async def store(self) -> None:
        """Adds to the store the lines that it lacks. Raises: StoreError."""
        # One at a time: a second caller would treat a group as stored before it is written.
        async with self._storing:
            while self._flying is not None or self._next.last:
                if self._flying is None:
                    # No line joins a group that is being written: all of it arrives, or nothing.
                    self._flying, self._next = self._next, _Group()
                await self._add(self._flying)
                self._flying = None
        if self._file >= 0 and self.may_forget() and self._size > _FORGET_OVER_BYTES:
            os.ftruncate(self._file, 0)
            self._size = self._reserved = 0
            self._times_emptied += 1
            self._unsynced.set()

    def _write(self, line: Line) -> None:
        if self._file < 0:
            self._open()
        used = [(*_day_key(change.counter), change.used) for change in line.changes]
        record = {"owner": line.owner, "line": line.number, "used": used}
        text = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        if append(self._file, text) < len(text):
            # Half a line would corrupt the next one.
            os.ftruncate(self._file, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(text)

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _sync(self) -> None:
        """Syncs the lines to the disk and reserves space for more. Runs on a separate thread."""
        os.fsync(self._file)
        if self._size + _RESERVE_BYTES <= self._reserved:
            return
        times_emptied, length = self._times_emptied, self._size + 2 * _RESERVE_BYTES
        try:
            reserve(self._file, length)
        except OSError as error:
            if not self._lacks_space:
                _log.error("no space for the journal `%s`: %s", self._path, error.strerror)
            self._lacks_space = True
        else:
            # If the file was emptied meanwhile, its reserved space is gone.
            self._reserved = length if times_emptied == self._times_emptied else 0
            self._lacks_space = False

    async def _add(self, group: _Group) -> None:
        now_ms = int(self._now() * 1000)
        async with self._database.unit_of_work() as session:
            done = await token_days.applied(session, list(group.last))
            sums: dict[DayKey, int] = {}
            for owner, last in group.last.items():
                if done.get(owner, 0) < last:
                    for key, used in group.used[owner].items():
                        sums[key] = sums.get(key, 0) + used
                    await token_days.note_applied(session, owner, last, now_ms)
            await token_days.add_used(session, sums)

    async def _recover(self, lines: Sequence[Line]) -> None:
        owners = list({line.owner for line in lines})
        async with self._database.reading() as session:
            done = await token_days.applied(session, owners)
        group = _Group()
        for line in lines:
            if line.number > done.get(line.owner, 0):
                group.add(line)
        if group.last:
            await self._add(group)

    async def _pause(self, seconds: float) -> None:
        """Sleeps; ends early when the journal closes."""
        await asyncio.wait((self._closed,), timeout=seconds)

    async def _sync_forever(self) -> None:
        while not self._closing.is_set():
            await self._unsynced.wait()
            self._unsynced.clear()
            self._is_behind = False
            if self._file >= 0:
                await asyncio.to_thread(self._sync)
            await self._pause(_SYNC_EVERY_S)

    async def _store_forever(self) -> None:
        while not self._closing.is_set():
            await self._unstored.wait()
            self._unstored.clear()
            self._is_behind = False
            try:
                await self.store()
            except StoreError as error:
                if not self._failed:
                    _log.warning("used tokens wait in the journal: %s", error)
                self._failed = True
                self._unstored.set()
                await self._pause(_RETRY_S)
            else:
                if self._failed:
                    _log.warning("used tokens are in the store again")
                self._failed = False
                await self._pause(_STORE_EVERY_S)


@dataclass(slots=True)
class _LeftFile:
    """The journal of a dead process, locked by us."""

    path: Path
    descriptor: int
    lines: list[Line]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def _left_files(folder: Path) -> Iterator[_LeftFile]:
    """Yields the journals that no living process holds."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        yield _LeftFile(path, descriptor, list(_read(path)))


def _read(path: Path) -> Iterator[Line]:
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record: dict[str, Any] = json.loads(text)
            changes = tuple(
                Change(_counter((scope, owner, day)), used=int(used))
                for scope, owner, day, used in record["used"]
            )
            yield Line(str(record["owner"]), int(record["line"]), changes)
        except (ValueError, KeyError, TypeError):
            # Half a line is left only if the machine lost power while it was written.
            _log.warning("line %d of the journal `%s` is damaged and left out", number, path)


def _counter(key: DayKey) -> Counter:
    scope, owner, day = key
    return Counter("tpd", "key" if scope == "key" else "tenant", owner, day)


def _day_key(counter: Counter) -> DayKey:
    return counter.scope, counter.owner, counter.period
