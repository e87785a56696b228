"""Files that keep lines until the database has them, even if the process dies.

A line is `<crc32> <kind> <id> <payload>` and a line end, written with one `write(2)`. Kinds: `R`, a
record; `P`, a promise: a provisional record, used until a record of the same id comes; `C`, a
confirmation of that id's promise. After a crash the last line of an id counts, also a promise.

One incarnation of a process writes segments `<incarnation>-<number>.journal` and holds a `flock` on
each. A process that gets all the locks of an incarnation knows that it is dead, and may read it.

The disk space of a segment is reserved when it is created, and the next segment is created ahead
(`reserve_ahead`): work that has started can still write its lines when the disk is full.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import threading
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from orchestrator.core.ids import new_id
from orchestrator.store.append import append
from orchestrator.store.space import reserve

logger = logging.getLogger(__name__)

Kind = Literal["R", "P", "C"]

SEGMENT_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024
_NAME = re.compile(r"(?P<incarnation>jrn_\w+)-(?P<number>\d+)\.journal")
_LINE = re.compile(rb"(?P<crc>[0-9a-f]{8}) (?P<kind>[RPC]) (?P<id>[^ \n]+) (?P<payload>[^\n]*)")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a journal."""

    kind: str
    id: str
    payload: bytes


def format_line(kind: Kind, line_id: str, payload: bytes) -> bytes:
    """Returns the line as bytes for the file. `payload` must hold no line end."""
    body = f"{kind} {line_id} ".encode() + payload
    return b"%08x %b\n" % (zlib.crc32(body), body)


def parse_lines(content: bytes) -> tuple[list[Line], int]:
    """Returns the valid, complete lines of `content`, and how many bytes they take in all.

    The bytes after the last line end are an unfinished line, or one torn by a crash.
    """
    length = content.rfind(b"\n") + 1
    lines = []
    for text in content[:length].splitlines():
        found = _LINE.fullmatch(text)
        if found is None or int(found["crc"], 16) != zlib.crc32(text[9:]):
            logger.error("a damaged line of %d bytes in a journal is left out", len(text))
            continue
        lines.append(Line(found["kind"].decode(), found["id"].decode(), found["payload"]))
    return lines, length


@dataclass(slots=True, eq=False)
class Segment:
    """One file, open and locked. `size` counts whole lines; `reserved` is the reserved disk space.

    Both are in bytes.
    """

    number: int
    path: Path
    fd: int
    size: int = 0
    synced: int = 0
    reserved: int = 0

    def discard(self) -> None:
        """Removes the file, and then releases its lock."""
        self.path.unlink(missing_ok=True)
        os.close(self.fd)


class Journal:
    """The journal that this process writes.

    Call `append` on one thread; `sync` and `reserve_ahead` may run on another.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """`folder` must exist; `reserve_ahead` and the first line create files in it."""
        self.segments: deque[Segment] = deque()
        self.fault: str | None = None
        """Why accepted lines cannot be written at the moment, if they cannot."""
        self.shortage: str | None = None
        """Why no space can be reserved ahead at the moment; then accept no new work."""
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._incarnation = new_id("jrn")
        self._made = 0
        self._making = threading.Lock()
        self._current: Segment | None = None
        self._spare: Segment | None = None
        self._held = bytearray()
        self._folder_synced = True
        self.taken = 0
        """Bytes of all lines accepted so far, wherever they are now."""

    @property
    def held(self) -> int:
        """Bytes that are only in memory."""
        return len(self._held)

    def append(self, kind: Kind, line_id: str, payload: bytes) -> None:
        """Writes the line to the operating system; if that fails, keeps it for the next call."""
        self.hold(kind, line_id, payload)
        self.flush()

    def hold(self, kind: Kind, line_id: str, payload: bytes = b"") -> None:
        """Like `append`, but the line waits for the next one or for `flush`; it is not urgent."""
        line = format_line(kind, line_id, payload)
        self._held += line
        self.taken += len(line)

    def flush(self) -> None:
        """Writes the lines held in memory. Never raises: sets `fault`."""
        if not self._held:
            return
        try:
            segment = self._writable(len(self._held))
            written = append(segment.fd, bytes(self._held))
            if written < len(self._held):
                # Half a line would corrupt the next one.
                os.ftruncate(segment.fd, segment.size)
                segment.reserved = segment.size
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            reason = error.strerror or str(error)
            if self.fault != reason:
                logger.error("the journal in `%s` cannot be written: %s", self._folder, reason)
            self.fault = reason
            return
        if self.fault is not None:
            logger.warning("the journal in `%s` can be written again", self._folder)
            self.fault = None
        segment.size += written
        self._held.clear()

    def close_current(self) -> None:
        """Closes the current segment; the next line begins a new one."""
        self._current = None

    def release(self) -> None:
        """Releases all segments; the next line begins a new one."""
        self.close_current()
        with self._making:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.discard()
        _release(self.segments)

    def reserve_ahead(self) -> None:
        """Creates the next segment with its space, if missing. Never raises: sets `shortage`.

        It may be slow; do not call it on the thread that appends.
        """
        try:
            with self._making:
                spare = self._spare = self._spare or self._made_segment()
                if spare.reserved < self._segment_bytes:
                    reserve(spare.fd, self._segment_bytes)
                    spare.reserved = self._segment_bytes
        except OSError as error:
            reason = error.strerror or str(error)
            if self.shortage != reason:
                logger.error("no space for the journal in `%s`: %s", self._folder, reason)
            self.shortage = reason
            return
        if self.shortage is not None:
            logger.warning("the journal in `%s` has its space again", self._folder)
            self.shortage = None

    def sync(self) -> None:
        """Syncs every line of `segments` to the disk. Raises: OSError."""
        if not self._folder_synced:
            self._folder_synced = True
            sync_folder(self._folder)
        for segment in list(self.segments):
            size = segment.size
            if segment.synced < size:
                os.fdatasync(segment.fd)
                segment.synced = size

    def _writable(self, length: int) -> Segment:
        """Returns the segment to write `length` bytes to. Raises: OSError."""
        current = self._current
        if current is not None and current.size + length <= current.reserved:
            return current
        with self._making:
            is_full = current is None or current.size + length > self._segment_bytes
            if not is_full and (self._spare is None or not self._spare.reserved):
                # Used even if no space could be reserved: accepted lines must be written somewhere.
                assert current is not None
                self._reserve(current)
                return current
            segment, self._spare = self._spare or self._made_segment(), None
            if not segment.reserved:
                self._reserve(segment)
        self._current = segment
        self.segments.append(segment)
        return segment

    def _reserve(self, segment: Segment) -> None:
        with suppress(OSError):
            reserve(segment.fd, self._segment_bytes)
            segment.reserved = self._segment_bytes

    def _made_segment(self) -> Segment:
        """Creates a new, empty file. Raises: OSError."""
        number = self._made
        path = self._folder / f"{self._incarnation}-{number:06d}.journal"
        draft = path.with_suffix(".new")
        # Gets its name only when it is locked: a file without a lock counts as a dead process's.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(draft, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(path)
        except OSError:
            os.close(fd)
            raise
        self._made += 1
        self._folder_synced = False
        return Segment(number, path, fd)


class Cursor:
    """Reads the segments of one incarnation in order: every id once, when its final line is read.

    `segments` may grow meanwhile. With `dead` they do not, and at the end the promises without a
    record are taken as records.
    """

    def __init__(self, segments: deque[Segment], *, dead: bool = False) -> None:
        self._segments = segments
        self._dead = dead
        self._number = -1
        self._offset = 0
        self._done = (-1, 0)
        self._promised: dict[str, tuple[int, bytes]] = {}

    @property
    def waiting(self) -> int:
        """Bytes not committed yet."""
        number, offset = self._done
        sizes = [segment.size for segment in list(self._segments) if segment.number > number]
        sizes += [s.size - offset for s in list(self._segments) if s.number == number]
        return sum(sizes)

    @property
    def promises(self) -> int:
        """The number of ids that are promised and not settled, as far as the cursor has read."""
        return len(self._promised)

    def take(self) -> list[bytes]:
        """Returns the next settled payloads; an empty list at the end. Raises: OSError."""
        settled: dict[str, bytes] = {}
        while not settled and (lines := self._next_lines()) is not None:
            for line in lines:
                self._read(line, settled)
        if not settled and self._dead:
            settled = {line_id: payload for line_id, (_, payload) in self._promised.items()}
            self._promised.clear()
        return list(settled.values())

    def drop_read(self, *, all_read: bool = False) -> None:
        """Removes the segments whose lines are all committed.

        Call it when all payloads taken are committed. `all_read` also removes the cursor's current
        segment, to which nothing may be written any more.
        """
        self._done = (self._number, self._offset)
        needed = {number for number, _ in self._promised.values()}
        for segment in list(self._segments):
            is_read = segment.number < self._number or all_read
            if is_read and segment.number not in needed:
                self._segments.remove(segment)
                segment.discard()

    def release(self) -> None:
        """Releases all segments; a process that adopts them reads from the beginning."""
        _release(self._segments)

    def has_read_all(self) -> bool:
        """Whether all lines written have been read."""
        last = self._segments[-1] if self._segments else None
        return last is None or (last.number == self._number and last.size <= self._offset)

    def _next_lines(self) -> list[Line] | None:
        """Returns the lines of the next chunk; `None` at the end."""
        segments = list(self._segments)
        for index, segment in enumerate(segments):
            if segment.number < self._number:
                continue
            if segment.number > self._number:
                self._number, self._offset = segment.number, 0
            content = os.pread(segment.fd, _CHUNK_BYTES, self._offset)
            lines, length = parse_lines(content)
            if length:
                self._offset += length
                return lines
            if len(content) == _CHUNK_BYTES:
                logger.error("the journal `%s` is damaged", segment.path)
                self._offset += len(content)
                return []
            # Checked now, with the list from before the read: a live segment may have grown since.
            if index == len(segments) - 1:
                return None
        return None

    def _read(self, line: Line, settled: dict[str, bytes]) -> None:
        match line.kind:
            case "P":
                self._promised[line.id] = (self._number, line.payload)
            case "C":
                if (promise := self._promised.pop(line.id, None)) is not None:
                    settled[line.id] = promise[1]
            case _:
                self._promised.pop(line.id, None)
                settled[line.id] = line.payload


def adopt_dead(folder: Path) -> list[deque[Segment]]:
    """Locks and returns the segments of every dead incarnation, the oldest first.

    The caller holds them from now on.
    """
    matches = [_NAME.fullmatch(name) for name in sorted(path.name for path in folder.iterdir())]
    names = [match for match in matches if match is not None]
    adopted = []
    for _, group in groupby(names, key=lambda name: name["incarnation"]):
        if segments := _locked(folder, list(group)):
            adopted.append(segments)
    return adopted


def sync_folder(folder: Path) -> None:
    """Syncs new file names in `folder` to the disk. Raises: OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _release(segments: deque[Segment]) -> None:
    while segments:
        os.close(segments.popleft().fd)


def _locked(folder: Path, names: Sequence[re.Match[str]]) -> deque[Segment] | None:
    """Locks all segments of one incarnation; `None` when another process holds one of them."""
    segments: deque[Segment] = deque()
    for name in names:
        segment = _locked_one(int(name["number"]), folder / name.string)
        if segment is None:
            _release(segments)
            return None
        segments.append(segment)
    return segments


def _locked_one(number: int, path: Path) -> Segment | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its owner may have removed the file between the two calls.
        if path.stat().st_ino == os.fstat(fd).st_ino:
            return Segment(number, path, fd, size=os.fstat(fd).st_size)
    os.close(fd)
    return None
