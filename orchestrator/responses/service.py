"""Stored responses: stores, finds, continues and deletes them, separately for each tenant.

A finished response is written once, before its client gets the end. A background response is
written from its start, so that any worker can report on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

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
    from_text,
    lifecycle_frame,
    response_of,
)
from orchestrator.settings import ResponsesSettings
from orchestrator.store.database import Database, StoreError

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_TURNS = 1000
"""Max length of the chain of responses read for one request."""
MAX_HISTORY_BYTES = 8 * 1024 * 1024
"""Max bytes of the history of a request, or of the items that it refers to."""
_RETRY_S = 1.0
_SWEEP_EVERY_S = 600.0
_LOST = "The worker that ran this response has ended."


class Room(Protocol):
    """Limits the memory of a request, and runs work on large data."""

    def hold(self, size: int) -> object:
        """Reserves `size` more bytes. Raises: RateLimited, Overloaded."""

    async def work_on(self, size: int, work: Callable[[], T]) -> T:
        """Runs `work` on `size` bytes; returns its result or raises its error."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Numbered events of a response. `over` means that no more will come."""

    frames: Sequence[tuple[int, bytes]]
    over: bool


class Responses:
    """The stored responses. Every async method raises StoreError unless it says otherwise.

    Call `start` before use, `close` afterwards.
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
        """Seconds between checks for new events of a running response."""
        return self._settings.poll_s

    def start(self) -> None:
        """Starts the deletion of old responses."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Waits until all is written, then ends the deletion."""
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
        """Stores a finished response; returns whether that succeeded. Never raises."""
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
        """Stores a response that starts to run, with its first events. Raises: InvalidRequest."""
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
        """Returns the response as it is now. Raises: ResponseNotFound."""
        return _kept(await self._stored(tenant_id, response_id))

    async def remove(self, tenant_id: str, response_id: str) -> None:
        """Deletes the response and its events. Raises: ResponseNotFound."""
        async with self._database.unit_of_work() as session:
            removed = await response_queries.remove(session, tenant_id, response_id)
        if not removed:
            raise _not_found(response_id)

    async def cancel(self, tenant_id: str, response_id: str) -> StoredResponse:
        """Stops the response and returns it. Raises: ResponseNotFound, InvalidRequest."""
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
        # It finished by itself meanwhile.
        return await self.find(tenant_id, response_id)

    async def advance(self, kept: StoredResponse, frames: Sequence[bytes]) -> bool:
        """Records the progress of a running response. False if it is finished or deleted."""
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
        """Records a sign of life of a running response's worker. False if finished or deleted."""
        async with self._database.unit_of_work() as session:
            return await response_queries.touch(session, response_id, self._now_ms())

    async def page(self, tenant_id: str, response_id: str, after: int) -> Page:
        """Returns the stored events after number `after`. Raises: ResponseNotFound."""
        async with self._database.reading() as session:
            found = await response_queries.progress(session, tenant_id, response_id, self._since())
            rows = await response_queries.events(session, response_id, after) if found else []
        if found is None:
            raise _not_found(response_id)
        status, seen_at = found
        if status in RUNNING and seen_at < self._silent_since():
            # This may write the end of a lost response; the next call finds it.
            await self._stored(tenant_id, response_id)
        numbered = [
            (first + index, frame)
            for first, text in rows
            for index, frame in enumerate(frames_in(text))
        ]
        return Page([one for one in numbered if one[0] > after], status not in RUNNING)

    async def has_events(self, tenant_id: str, response_id: str) -> bool:
        """Whether its events are stored. Raises: ResponseNotFound."""
        return (await self._stored(tenant_id, response_id)).next_sequence > 0

    async def history(
        self, tenant_id: str, response_id: str, room: Room | None = None
    ) -> list[Item]:
        """Returns the conversation up to the end of that response, the oldest item first.

        It is read once `room` has room for it.
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
        """Returns those of `ids` that are items of stored responses, read as in `history`.

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
        """Stores finished responses in one transaction. Raises: StoreError."""
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
        """Returns the row; marks it as failed if its worker is lost. Raises: ResponseNotFound."""
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
        body = failed(from_text(stored.body), "server_error", _LOST)
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
                # Continue after any error: without this task nothing is ever deleted again.
                logger.exception("old responses are not deleted yet")
            await asyncio.sleep(min(_SWEEP_EVERY_S, self._settings.ttl_s))

    async def sweep(self) -> None:
        """Deletes old responses, and ends those that lost their worker."""
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
    # While it runs, the row's status is newer than the body's.
    body = {**from_text(stored.body), "status": stored.status}
    return StoredResponse(stored.tenant_id, body, from_text(stored.input_items))


def _said(ids: Sequence[str], texts: Mapping[str, tuple[str, str]]) -> list[Item]:
    """Joins the items of the responses `ids`, given their texts. Raises: InvalidRequest."""
    items: list[Item] = []
    for one in ids:
        if one in texts:
            body, given = texts[one]
            items += from_text(given)
            items += _output(one, from_text(body))
    return items


def _wanted(wanted: Set[str], texts: Mapping[str, tuple[str, str]]) -> dict[str, Item]:
    """Returns the items with these ids in the texts."""
    found = [
        item
        for body, given in texts.values()
        for item in (*from_text(given), *from_text(body)["output"])
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
