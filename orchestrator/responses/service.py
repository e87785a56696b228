"""Stored responses: kept, found again, continued and forgotten, each tenant's own.

A finished response is written once, before its reader knows of the end. One that runs in the
background is written from its start, so that any worker can tell of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import orjson

from orchestrator.core.errors import (
    InvalidRequest,
    PreviousResponseNotFound,
    ResponseNotFound,
    StoreUnavailable,
)
from orchestrator.responses import queries as response_queries
from orchestrator.responses.batches import Batches
from orchestrator.responses.queries import RUNNING, Quotas, Stored
from orchestrator.responses.values import (
    Item,
    StoredResponse,
    as_text,
    cancelled,
    failed,
    frames_in,
    lifecycle_frame,
    response_of,
)
from orchestrator.settings import ResponsesSettings
from orchestrator.store.database import Database, StoreError

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_TURNS = 1000
"""The longest chain of responses that is read for one request."""
MAX_HISTORY_BYTES = 8 * 1024 * 1024
"""Of what came before a request, or of what it refers to."""
_RETRY_S = 1.0
_SWEEP_EVERY_S = 600.0
_LOST = "The worker that ran this response has ended."


class Room(Protocol):
    """What a request may hold in memory, and where it works on what is large."""

    def hold(self, size: int) -> object:
        """Takes `size` more bytes. Raises: RateLimited, Overloaded."""

    async def work_on(self, size: int, work: Callable[[], T]) -> T:
        """What `work` on `size` bytes returns or raises."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Events of a response, numbered. `over` when no more will come."""

    frames: Sequence[tuple[int, bytes]]
    over: bool


class Responses:
    """The stored responses. Every method that is awaited raises StoreError unless it says not.

    `start` before use, `close` afterwards.
    """

    def __init__(
        self,
        database: Database,
        settings: ResponsesSettings,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._settings = settings
        self._quotas = Quotas(settings.most_bytes, settings.most_stored)
        self._now = now
        self._down_until = 0.0
        self._sweeper: asyncio.Task[None] | None = None
        self._batches = Batches(self._write)

    @property
    def stores(self) -> bool:
        """Whether anything is stored at all."""
        return self._settings.store

    @property
    def poll_s(self) -> float:
        """How often to look for news of a running response."""
        return self._settings.poll_s

    def start(self) -> None:
        """Begins to delete what is too old."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Ends that, when all is written."""
        await self._batches.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    def check(self) -> None:
        """Raises: StoreUnavailable when the last attempt to write failed a moment ago."""
        if time.monotonic() < self._down_until:
            raise StoreUnavailable(
                "Responses cannot be stored at the moment; with `store` false none has to be.",
                retry_after_s=_RETRY_S,
                retryable=True,
            )

    async def keep(self, kept: StoredResponse) -> bool:
        """Stores a response that has ended; whether it did. Raises nothing."""
        stored = self._as_stored(kept)
        if stored.size_bytes > self._quotas.most_bytes:
            return False
        try:
            await self._batches.add(stored)
        except StoreError as error:
            self._down_until = time.monotonic() + _RETRY_S
            logger.warning("the response %s is not stored: %s", kept.id, error)
            return False
        return True

    async def begin(self, kept: StoredResponse, frames: Sequence[bytes]) -> None:
        """Stores a response that is to run, with its first events. Raises: InvalidRequest."""
        stored = self._as_stored(kept)
        if stored.size_bytes > self._quotas.most_bytes:
            raise InvalidRequest(
                f"A response may take {self._quotas.most_bytes} bytes in the store at most;"
                f" this one would take {stored.size_bytes} before its answer."
            )
        async with self._database.unit_of_work() as session:
            await response_queries.add(session, [stored])
            await response_queries.advance(
                session,
                kept.id,
                status=stored.status,
                now=stored.seen_at,
                frames=[frame.decode("ascii") for frame in frames],
            )
            await response_queries.make_room(session, kept.tenant_id, self._quotas, [kept.id])

    async def find(self, tenant_id: str, response_id: str) -> StoredResponse:
        """The response as it is now. Raises: ResponseNotFound."""
        return _kept(await self._stored(tenant_id, response_id))

    async def remove(self, tenant_id: str, response_id: str) -> None:
        """Deletes the response, its events too. Raises: ResponseNotFound."""
        async with self._database.unit_of_work() as session:
            removed = await response_queries.remove(session, tenant_id, response_id)
        if not removed:
            raise _not_found(response_id)

    async def cancel(self, tenant_id: str, response_id: str) -> StoredResponse:
        """The response, which does not run any more. Raises: ResponseNotFound, InvalidRequest."""
        stored = await self._stored(tenant_id, response_id)
        kept = _kept(stored)
        if not kept.body.get("background"):
            raise InvalidRequest(
                f"The response `{response_id}` does not run in the background, and only those"
                " that do can be cancelled."
            )
        if not stored.running:
            return kept
        ended = StoredResponse(tenant_id, cancelled(kept.body), kept.items)
        if await self.advance(ended, ()):
            return ended
        # It ended in between, all by itself.
        return await self.find(tenant_id, response_id)

    async def advance(self, kept: StoredResponse, frames: Sequence[bytes]) -> bool:
        """Notes how a running response went on. False when it is over or gone."""
        async with self._database.unit_of_work() as session:
            return await response_queries.advance(
                session,
                kept.id,
                status=kept.body["status"],
                now=self._now_ms(),
                frames=[frame.decode("ascii") for frame in frames],
                body=None if kept.running else as_text(kept.body),
            )

    async def touch(self, response_id: str) -> bool:
        """Says that the worker of a running response lives. False when it is over or gone."""
        async with self._database.unit_of_work() as session:
            return await response_queries.touch(session, response_id, self._now_ms())

    async def page(self, tenant_id: str, response_id: str, after: int) -> Page:
        """The events after number `after` that are stored. Raises: ResponseNotFound."""
        async with self._database.reading() as session:
            found = await response_queries.progress(session, tenant_id, response_id, self._since())
            rows = await response_queries.events(session, response_id, after) if found else []
        if found is None:
            raise _not_found(response_id)
        status, seen_at = found
        if status in RUNNING and seen_at < self._silent_since():
            # The end that is written now is found by the next look.
            await self._stored(tenant_id, response_id)
        numbered = [
            (first + index, frame)
            for first, text in rows
            for index, frame in enumerate(frames_in(text))
        ]
        return Page([one for one in numbered if one[0] > after], status not in RUNNING)

    async def has_events(self, tenant_id: str, response_id: str) -> bool:
        """Whether its events were stored as they came. Raises: ResponseNotFound."""
        return (await self._stored(tenant_id, response_id)).next_sequence > 0

    async def history(
        self, tenant_id: str, response_id: str, room: Room | None = None
    ) -> list[Item]:
        """What was said up to the end of that response, the oldest first.

        It is read when `room` has room for it.
        Raises: PreviousResponseNotFound, InvalidRequest, RateLimited, Overloaded.
        """
        async with self._database.reading() as session:
            links = await response_queries.chain(
                session, tenant_id, response_id, self._since(), most=MAX_TURNS
            )
            missing = links[-1][1] if links else response_id
            if missing is not None:
                raise _broken(missing, len(links))
            size = sum(link[2] for link in links)
            if size > MAX_HISTORY_BYTES:
                raise InvalidRequest(
                    f"What came before may have {MAX_HISTORY_BYTES} bytes at most; up to"
                    f" `{response_id}` it has {size}.",
                    param="previous_response_id",
                )
            if room is not None:
                room.hold(size)
            ids = [link[0] for link in reversed(links)]
            texts = await response_queries.texts(session, tenant_id, ids, self._since())
        work = partial(_said, ids, texts)
        return work() if room is None else await room.work_on(size, work)

    async def items(
        self, tenant_id: str, ids: Sequence[str], room: Room | None = None
    ) -> dict[str, Item]:
        """Those of `ids` that are items of stored responses, read as in `history`.

        Raises: InvalidRequest, RateLimited, Overloaded.
        """
        wanted, owners = set(ids), list({response_of(one) for one in ids})
        async with self._database.reading() as session:
            size = await response_queries.size(session, tenant_id, owners, self._since())
            if size > MAX_HISTORY_BYTES:
                raise InvalidRequest(
                    f"Responses whose items are referred to may have {MAX_HISTORY_BYTES} bytes"
                    f" at most; these have {size}.",
                    param="input",
                )
            if room is not None:
                room.hold(size)
            texts = await response_queries.texts(session, tenant_id, owners, self._since())
        work = partial(_wanted, wanted, texts)
        return work() if room is None else await room.work_on(size, work)

    async def _write(self, batch: Sequence[Stored]) -> None:
        """Stores responses that have ended, in one transaction. Raises: StoreError."""
        async with self._database.unit_of_work() as session:
            await response_queries.add(session, batch)
            for tenant_id in {stored.tenant_id for stored in batch}:
                new = [stored.id for stored in batch]
                await response_queries.make_room(session, tenant_id, self._quotas, new)

    def _as_stored(self, kept: StoredResponse) -> Stored:
        now = self._now_ms()
        return Stored(
            id=kept.id,
            tenant_id=kept.tenant_id,
            created_at=now,
            previous_id=kept.body.get("previous_response_id"),
            status=kept.body["status"],
            body=as_text(kept.body),
            input_items=as_text(kept.items),
            seen_at=now,
        )

    async def _stored(self, tenant_id: str, response_id: str) -> Stored:
        """The row; one whose worker is silent for too long fails here. Raises: ResponseNotFound."""
        found = await self._row(tenant_id, response_id)
        if found.running and found.seen_at < self._silent_since():
            await self._lose(found)
            found = await self._row(tenant_id, response_id)
        return found

    async def _row(self, tenant_id: str, response_id: str) -> Stored:
        async with self._database.reading() as session:
            found = await response_queries.find(session, tenant_id, response_id, self._since())
        if found is None:
            raise _not_found(response_id)
        return found

    async def _lose(self, stored: Stored) -> None:
        body = failed(orjson.loads(stored.body), "server_error", _LOST)
        frame = lifecycle_frame("response.failed", stored.next_sequence, body).decode("ascii")
        async with self._database.unit_of_work() as session:
            await response_queries.advance(
                session,
                stored.id,
                status="failed",
                now=self._now_ms(),
                frames=[frame] if stored.next_sequence else [],
                body=as_text(body),
                idle_since=self._silent_since(),
            )

    async def _sweep(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreError as error:
                logger.warning("old responses are not deleted yet: %s", error)
            except Exception:
                # Whatever it is: without this task nothing is ever deleted again.
                logger.exception("old responses are not deleted yet")
            await asyncio.sleep(min(_SWEEP_EVERY_S, self._settings.ttl_s))

    async def sweep(self) -> None:
        """Deletes what is too old, and ends what lost its worker."""
        async with self._database.unit_of_work() as session:
            await response_queries.expire(session, self._since())
            lost = await response_queries.abandoned(session, self._silent_since())
        for stored in lost:
            await self._lose(stored)

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    def _since(self) -> int:
        return int((self._now() - self._settings.ttl_s) * 1000)

    def _silent_since(self) -> int:
        return int((self._now() - self._settings.lost_after_s) * 1000)


def _kept(stored: Stored) -> StoredResponse:
    # The row's status is newer than the body's while it runs.
    body = {**orjson.loads(stored.body), "status": stored.status}
    return StoredResponse(stored.tenant_id, body, orjson.loads(stored.input_items))


def _said(ids: Sequence[str], texts: Mapping[str, tuple[str, str]]) -> list[Item]:
    """What the responses `ids`, whose texts these are, add up to. Raises: InvalidRequest."""
    items: list[Item] = []
    for one in ids:
        if one in texts:
            body, given = texts[one]
            items += orjson.loads(given)
            items += _output(one, orjson.loads(body))
    return items


def _wanted(wanted: Set[str], texts: Mapping[str, tuple[str, str]]) -> dict[str, Item]:
    """The items of these ids in those texts."""
    found = [
        item
        for body, given in texts.values()
        for item in (*orjson.loads(given), *orjson.loads(body)["output"])
    ]
    return {item["id"]: item for item in found if item.get("id") in wanted}


def _output(response_id: str, body: Item) -> list[Item]:
    if body["status"] not in ("completed", "incomplete"):
        raise InvalidRequest(
            f"The response `{response_id}` cannot be continued: it is {body['status']}.",
            param="previous_response_id",
        )
    output: list[Item] = body["output"]
    return output


def _not_found(response_id: str) -> ResponseNotFound:
    return ResponseNotFound(f"The response `{response_id[:80]}` does not exist.")


def _broken(missing: str, turns: int) -> PreviousResponseNotFound | InvalidRequest:
    if turns >= MAX_TURNS:
        return InvalidRequest(
            f"At most {MAX_TURNS} responses can come before one another.",
            param="previous_response_id",
        )
    return PreviousResponseNotFound(
        f"The response `{missing[:80]}`, which came before, does not exist.",
        param="previous_response_id",
    )
