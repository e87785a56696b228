"""Writes denied requests to the audit: requests do not wait for it, and a crash loses none.

Administrative changes are not handled here: they are written in the transaction that does them
(`audit/log.py`). A denial goes through a journal. So that a flood of denials cannot fill the disk,
only the first `FIRST_ONES` for each key and reason in a clock minute get a line each (at most
`MAX_LINES` for all keys together). The rest are counted in one line when the minute ends.
A crash loses at most one second of such a count.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from orchestrator.audit import log as audit_log
from orchestrator.audit.anchor import format_head, read_anchor, write_anchor
from orchestrator.audit.log import Act, AuditLine, ChainHead
from orchestrator.core.errors import StoreUnavailable
from orchestrator.core.ids import new_id
from orchestrator.settings import Settings, SettingsError
from orchestrator.store.database import Database, StoreError
from orchestrator.store.spool import Pace, Spool

logger = logging.getLogger(__name__)

FIRST_ONES = 10
MAX_LINES = 600
_MAX_GROUPS = 1000
_MINUTE_S = 60
_TICK_S = 1.0
_ANCHOR_EVERY_TICKS = 5


@dataclass(frozen=True, slots=True)
class Denial:
    """One refused request of a known key. `facts` are details, without secrets and prompts."""

    status: int
    reason: str
    key_id: str
    tenant_id: str
    target: str
    client_ip: str = ""
    request_id: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Group:
    """The denials of one key for one reason in one minute. `latest` is the last one counted."""

    told: int = 0
    counted: int = 0
    noted: int = 0
    first_at: int = 0
    latest: Denial | None = None
    entry_id: str = field(default_factory=lambda: new_id("aud"))


class AuditTrail:
    """Records denials. Call `start` before use, `close` after the last denial."""

    def __init__(self, settings: Settings, *, now: Callable[[], float] = time.time) -> None:
        """Raises: SettingsError."""
        self._data_dir = settings.data_dir
        self._database = Database(settings)
        folder = settings.data_dir / "journal" / "audit"
        pace = Pace.of(settings.books)
        self._spool = Spool("the audit of denials", folder, self._commit, pace)
        self._decoder = msgspec.json.Decoder(Act)
        self._now = now
        self._minute = 0
        self._lines = 0
        self._groups: dict[tuple[str, int, str], _Group] = {}
        self._fault: str | None = None
        """What is wrong with the chain, as far as its saved head shows it."""
        self._ticking: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def start(self) -> None:
        """Starts the work, also on journals of dead processes. Raises: SettingsError."""
        self._spool.start()
        self._ticking = asyncio.create_task(self._tick_forever())

    async def close(self) -> None:
        """Commits what the store accepts; the rest waits for the next start."""
        self._closing.set()
        if self._ticking is not None:
            await self._ticking
        self._finish_minute()
        await self._spool.close()
        await self._anchor()
        await self._database.close()

    def deny(self, denial: Denial) -> None:
        """Records a denial. Returns at once; it is then counted or written to the journal."""
        minute = int(self._now() // _MINUTE_S)
        if minute != self._minute:
            self._finish_minute()
            self._minute = minute
        key = (denial.key_id, denial.status, denial.reason)
        if key not in self._groups and len(self._groups) >= _MAX_GROUPS:
            # Too many keys in this minute: count the rest together, by reason only.
            denial = replace(denial, key_id="", tenant_id="", target="", request_id="", facts={})
            key = ("", denial.status, denial.reason)
        group = self._groups.setdefault(key, _Group())
        if denial.key_id and group.told < FIRST_ONES and self._lines < MAX_LINES:
            group.told += 1
            self._lines += 1
            act = _act(denial, self._at())
            self._spool.record(act.entry_id, msgspec.json.encode(act))
            return
        group.counted += 1
        group.first_at = group.first_at or self._at()
        group.latest = denial

    def tick(self) -> None:
        """Saves the counts since the last tick, and finishes the minute when it has ended."""
        if int(self._now() // _MINUTE_S) != self._minute:
            self._finish_minute()
        for group in self._groups.values():
            if group.counted > group.noted:
                group.noted = group.counted
                act = self._summary(group)
                self._spool.promise(act.entry_id, msgspec.json.encode(act))

    async def listed(
        self,
        tenant_id: str,
        *,
        before_seq: int | None,
        action: str | None,
        start_at: int | None,
        end_at: int | None,
        limit: int,
    ) -> list[AuditLine]:
        """Returns lines of `tenant_id`, the newest first. Raises: StoreUnavailable."""
        try:
            async with self._database.reading() as session:
                return await audit_log.listed(
                    session,
                    tenant_id=tenant_id,
                    before_seq=before_seq,
                    action=action,
                    start_at=start_at,
                    end_at=end_at,
                    limit=limit,
                )
        except StoreError as error:
            logger.warning("the audit cannot be read: %s", error)
            raise StoreUnavailable("The audit cannot be read at the moment.") from error

    def problems(self) -> list[str]:
        """Returns why denials do not reach the store, or its faults, in sentences for operators."""
        return [*self._spool.problems(), *([self._fault] if self._fault is not None else [])]

    def _finish_minute(self) -> None:
        for group in self._groups.values():
            if group.counted:
                act = self._summary(group)
                self._spool.record(act.entry_id, msgspec.json.encode(act))
        self._groups = {}
        self._lines = 0

    def _summary(self, group: _Group) -> Act:
        assert group.latest is not None
        act = _act(group.latest, group.first_at)
        more = {"count": group.counted, "until": self._at()}
        after = {**(act.after or {}), **more}
        return replace(act, entry_id=group.entry_id, action="request.denied.more", after=after)

    def _at(self) -> int:
        return int(self._now() * 1000)

    async def _tick_forever(self) -> None:
        ticks = 0
        while not self._closing.is_set():
            self.tick()
            if ticks % _ANCHOR_EVERY_TICKS == 0:
                await self._anchor()
            ticks += 1
            try:
                await asyncio.wait_for(self._closing.wait(), _TICK_S)
            except TimeoutError:
                continue

    async def _commit(self, payloads: Sequence[bytes]) -> None:
        """Adds the denials that are not in the chain yet. Raises: StoreError."""
        acts = []
        for payload in payloads:
            try:
                acts.append(self._decoder.decode(payload))
            except msgspec.DecodeError:
                # The checksum is right, so another version of this program wrote it.
                logger.exception("an audited denial cannot be read: %r", payload)
        async with self._database.unit_of_work() as session:
            await audit_log.note_all(session, acts)

    async def _anchor(self) -> None:
        """Saves the head of the chain in the data folder, if it has moved on.

        A saved head that the chain does not pass through any more stays until an operator accepts
        the chain: otherwise the next line would hide that lines were cut off.
        """
        try:
            # Read the saved head first: another process may save a later one meanwhile.
            noted = read_anchor(self._data_dir)
            async with self._database.reading() as session:
                is_whole = noted is None or await audit_log.passes_through(session, noted)
                head = await audit_log.head(session)
            if is_whole and head is not None and head != noted:
                write_anchor(self._data_dir, head)
        except StoreError:
            # Users of the store report its outage.
            return
        except SettingsError as error:
            logger.error("the end of the audit cannot be noted: %s", error)
            return
        self._note_fault(None if is_whole else noted)

    def _note_fault(self, lost: ChainHead | None) -> None:
        """Sets the fault. `lost` is the saved head that the chain does not pass through."""
        fault = None
        if lost is not None:
            fault = (
                f"the audit was cut or replaced: line {lost.seq} is not the one that was noted as "
                f"its end ({format_head(lost)}). See `orchestrator audit verify`; after a restored "
                "backup accept it with `orchestrator audit accept`"
            )
        if fault is not None and fault != self._fault:
            logger.error(fault)
        self._fault = fault


def _act(denial: Denial, at: int) -> Act:
    return Act(
        actor=f"key:{denial.key_id}" if denial.key_id else "keys",
        action="request.denied",
        target=denial.target,
        tenant_id=denial.tenant_id or None,
        after={"status": denial.status, "reason": denial.reason, **denial.facts},
        client_ip=denial.client_ip,
        request_id=denial.request_id,
        at=at,
    )
