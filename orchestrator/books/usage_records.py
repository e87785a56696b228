"""The books: one usage record for each admitted request.

When `promise` or `record` returns, the operating system has the record. So it is safe before the
client sees the end of its answer; `store/spool.py` says how it gets to the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import msgspec

from orchestrator.books import queries as usage_queries
from orchestrator.books.queries import RecordsGoneError
from orchestrator.books.spans import HOUR_MS
from orchestrator.books.sums import Grouping, GroupValue, UsageFilter, UsageSum
from orchestrator.core.costs import Outcome
from orchestrator.core.errors import InvalidRequest, StoreUnavailable
from orchestrator.core.ids import new_id
from orchestrator.core.timestamps import format_moment
from orchestrator.settings import Settings
from orchestrator.store.database import Database, StoreError
from orchestrator.store.spool import Pace, Spool

logger = logging.getLogger(__name__)

_FORGET_EVERY_S = 3600.0
_FORGET_AT_ONCE = 2000


class UsageRecord(msgspec.Struct, frozen=True, gc=False):
    """One request. `at` is its start in Unix seconds; `first_token_s` is None without a token.

    The tokens are those charged; `wasted_tokens` are those that the engine computed in addition;
    see `orchestrator.core.costs`. `record_id` identifies the record: however often it arrives, it
    counts once.
    """

    request_id: str
    at: float
    tenant_id: str
    key_id: str
    model: str
    route: str
    dialect: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    first_token_s: float | None
    duration_s: float
    outcome: Outcome
    record_id: str = msgspec.field(default_factory=partial(new_id, "use"))
    wasted_tokens: int = 0
    """It has a default because journal lines of an older version lack it."""


class Books(Protocol):
    """Takes usage records and loses none."""

    def check(self) -> None:
        """Raises: StoreUnavailable when no more can be taken, so that no work is done unbooked."""
        ...

    def promise(self, entry: UsageRecord) -> None:
        """Writes a provisional record, used only if no record of the same id follows (a crash).

        Call it before the client gets the end of its answer. Returns at once.
        """
        ...

    def record(self, entry: UsageRecord) -> None:
        """Writes the final record. Returns at once: slow work is done in the background."""
        ...


class NoBooks:
    """Books that discard all records."""

    def check(self) -> None:
        """Never raises."""

    def promise(self, entry: UsageRecord) -> None:
        """Discards `entry`."""
        del entry

    def record(self, entry: UsageRecord) -> None:
        """Discards `entry`."""
        del entry


class StoredBooks:
    """Books in the store, through a journal. Call `start` first, `close` after the last record."""

    def __init__(
        self, settings: Settings, database: Database, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        folder = settings.data_dir / "journal" / "usage"
        self._spool = Spool("usage", folder, self._commit, Pace.of(settings.books))
        self._keep_s = settings.books.keep_records_s
        self._now = now
        self._forgetting: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(UsageRecord)

    def start(self) -> None:
        """Starts the work, also on journals of dead processes. Raises: SettingsError."""
        self._spool.start()
        if self._keep_s:
            self._forgetting = asyncio.create_task(self._forget_forever())

    async def close(self) -> None:
        """Commits what the database accepts; the rest waits for the next start."""
        self._closing.set()
        if self._forgetting is not None:
            await self._forgetting
        await self._spool.close()

    def check(self) -> None:
        """Raises: StoreUnavailable when the journal can grow no more."""
        self._spool.check()

    def promise(self, entry: UsageRecord) -> None:
        """Writes a provisional record, used only if no final one follows."""
        self._spool.promise(entry.record_id, self._encoder.encode(entry))

    def record(self, entry: UsageRecord) -> None:
        """Writes the final record."""
        self._spool.record(entry.record_id, self._encoder.encode(entry))

    def problems(self) -> list[str]:
        """Returns what keeps records from the database, in sentences for the operator."""
        return self._spool.problems()

    async def total(self, which: UsageFilter) -> UsageSum:
        """Returns the sum of everything. Raises: StoreUnavailable, InvalidRequest."""
        (total,) = await self.page(which, ())
        return total

    async def page(
        self,
        which: UsageFilter,
        by: Sequence[Grouping],
        *,
        limit: int | None = None,
        offset: int = 0,
        after: Sequence[GroupValue] | None = None,
    ) -> list[UsageSum]:
        """Returns the sums by `by`, at most `limit` of those after `after`.

        Raises: StoreUnavailable, InvalidRequest.
        """
        try:
            async with self._database.reading() as session:
                return await usage_queries.summed(
                    session, which, by, limit=limit, offset=offset, after=after
                )
        except StoreError as error:
            logger.warning("the books cannot be read: %s", error)
            raise StoreUnavailable("The books cannot be read at the moment.") from error
        except RecordsGoneError as gone:
            raise _inside_an_hour(which, gone.hour_at) from gone

    async def _forget_forever(self) -> None:
        while not self._closing.is_set():
            try:
                await self.forget_old()
            except StoreError as error:
                logger.warning("old records cannot be removed: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _FORGET_EVERY_S)

    async def forget_old(self) -> None:
        """Deletes the single records that are older than the settings say. Raises: StoreError."""
        before = int((self._now() - self._keep_s) * 1000)
        before -= before % HOUR_MS
        gone = _FORGET_AT_ONCE
        # In small transactions, because writers of records wait for each.
        while gone == _FORGET_AT_ONCE and not self._closing.is_set():
            async with self._database.unit_of_work() as session:
                gone = await usage_queries.forget_records(session, before, _FORGET_AT_ONCE)

    async def _commit(self, payloads: Sequence[bytes]) -> None:
        """Adds the records that are not in the store yet. Raises: StoreError."""
        entries = [entry for payload in payloads if (entry := self._entry(payload)) is not None]
        async with self._database.unit_of_work() as session:
            await usage_queries.add_all(session, entries)

    def _entry(self, payload: bytes) -> dict[str, Any] | None:
        try:
            record = self._decoder.decode(payload)
        except msgspec.DecodeError:
            # The checksum is right, so another version of this program wrote it.
            logger.exception("a usage record cannot be read: %r", payload)
            return None
        return _row(record)


def _inside_an_hour(which: UsageFilter, hour_at: int) -> InvalidRequest:
    """Returns the refusal of a time range that cuts an hour of which only the sum is left."""
    begins = which.start_at is not None and which.start_at // HOUR_MS * HOUR_MS == hour_at
    name, given = ("start_time", which.start_at) if begins else ("end_time", which.end_at)
    assert given is not None
    return InvalidRequest(
        f"`{name}` must be a full hour in UTC: single records of {format_moment(hour_at)} are no"
        f" longer kept; {format_moment(given)} was given.",
        param=name,
    )


def _row(record: UsageRecord) -> dict[str, Any]:
    """Returns the columns of `UsageEntry`."""
    first_s = record.first_token_s
    return {
        "record_id": record.record_id,
        "at": int(record.at * 1000),
        "request_id": record.request_id[:64],
        "tenant_id": record.tenant_id,
        "key_id": record.key_id,
        "model": record.model.replace("\0", "?")[:200],
        "route": record.route[:40],
        "dialect": record.dialect[:40],
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "cached_tokens": record.cached_tokens,
        "first_token_ms": None if first_s is None else round(first_s * 1000),
        "duration_ms": round(record.duration_s * 1000),
        "outcome": record.outcome,
        "wasted_tokens": record.wasted_tokens,
    }
