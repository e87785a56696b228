"""The audit: one chain of lines for the whole installation, each with the hash of the previous.

A line's hash is SHA-256 over the previous hash and the canonical JSON of the line (sorted names,
no spaces). Lines are numbered from 1 without gaps. The chain reveals lines that were altered,
removed or moved inside it. `audit_head` says where it ends. A head saved outside the database
reveals a chain that was built again, or was cut off together with `audit_head`.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError
from sqlmodel import col, select

from orchestrator.core.actor import Actor
from orchestrator.core.ids import new_id
from orchestrator.core.timestamps import format_moment
from orchestrator.store.database import Session, turn
from orchestrator.store.tables import AuditEntry, AuditHead

NO_HASH = bytes(32)
"""The previous hash of the first line."""
_SECRET_NAMES = frozenset({"secret", "digest", "previous_digest", "pepper", "password_hash"})
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Act:
    """An act to record: who did it (`key:…`, `cli:…`, `system:…`), what, to what, from where.

    `tenant_id` None means the installation. `before` and `after` must fit into JSON; members
    with the name of a secret are omitted.
    """

    actor: str
    action: str
    target: str = ""
    tenant_id: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    client_ip: str = ""
    request_id: str = ""
    at: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    """Milliseconds."""
    entry_id: str = field(default_factory=lambda: new_id("aud"))


class _Owned(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def tenant_id(self) -> str: ...


def act_on(
    target: _Owned,
    action: str,
    by: Actor,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> Act:
    """Describes what `by` did to an object of a tenant."""
    return Act(
        actor=by.actor,
        action=action,
        target=target.id,
        tenant_id=target.tenant_id,
        before=before,
        after=after,
        client_ip=by.client_ip,
        request_id=by.request_id,
    )


@dataclass(frozen=True, slots=True)
class AuditLine:
    """A line of the audit as it is stored. `before`, `after`, `origin` are JSON text."""

    seq: int
    entry_id: str
    at: int
    tenant_id: str | None
    actor: str
    action: str
    target: str
    before: str | None
    after: str | None
    origin: str | None
    previous_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The head of a chain: the number and hash of its last line."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """The first line that was changed after it was written, and what is wrong with it."""

    seq: int
    problem: str


class UnreadableLineError(Exception):
    """The database itself cannot read the line `seq`."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"line {seq} cannot be read")
        self.seq = seq


def cli_actor() -> str:
    """Returns the user of the command line."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli:unknown"


async def note(session: Session, act: Act) -> None:
    """Adds `act` to the chain, in the caller's transaction.

    Call it last in the transaction: until the commit, all other writers of the audit wait.
    """
    await note_all(session, [act])


async def note_all(session: Session, acts: Sequence[Act]) -> None:
    """Like `note`, for several acts; skips those whose `entry_id` is in the chain already."""
    await turn(session, "audit")
    ids = [act.entry_id for act in acts]
    known = set(
        await session.exec(select(AuditEntry.entry_id).where(col(AuditEntry.entry_id).in_(ids)))
    )
    head = await session.get(AuditHead, 1, with_for_update=True)
    if head is None:
        head = AuditHead(id=1, seq=0, hash=NO_HASH)
        session.add(head)
    for act in acts:
        if act.entry_id in known:
            continue
        known.add(act.entry_id)
        row = _row(act, ChainHead(head.seq, head.hash))
        session.add(row)
        head.seq, head.hash = row.seq, row.hash
    await session.flush()


async def listed(
    session: Session,
    *,
    tenant_id: str | None = None,
    before_seq: int | None = None,
    action: str | None = None,
    start_at: int | None = None,
    end_at: int | None = None,
    limit: int = 100,
) -> list[AuditLine]:
    """Returns lines of one tenant or of all, the newest first. Times are in milliseconds."""
    query = select(AuditEntry).order_by(col(AuditEntry.seq).desc()).limit(limit)
    if tenant_id is not None:
        query = query.where(AuditEntry.tenant_id == tenant_id)
    if before_seq is not None:
        query = query.where(AuditEntry.seq < before_seq)
    if action is not None:
        query = query.where(AuditEntry.action == action)
    if start_at is not None:
        query = query.where(AuditEntry.at >= start_at)
    if end_at is not None:
        query = query.where(AuditEntry.at < end_at)
    return [_line(row) for row in await session.exec(query)]


async def every_line(session: Session) -> AsyncIterator[AuditLine]:
    """Yields all lines in the order of their numbers, with one page in memory at a time.

    Raises: UnreadableLineError.
    """
    last = -(2**63)
    while True:
        try:
            rows = await _page(session, last, _PAGE)
        except (DBAPIError, UnicodeDecodeError, LookupError):
            rows = await _readable(session, last)
        for row in rows:
            yield row
        if not rows:
            return
        last = rows[-1].seq


async def _page(session: Session, after_seq: int, size: int) -> list[AuditLine]:
    query = select(AuditEntry).where(AuditEntry.seq > after_seq).order_by(col(AuditEntry.seq))
    rows = [_line(row) for row in await session.exec(query.limit(size))]
    session.expunge_all()
    return rows


async def _readable(session: Session, after_seq: int) -> list[AuditLine]:
    """Reads only the next line, after a page failed to load. Raises: UnreadableLineError."""
    await session.rollback()
    query = select(AuditEntry.seq).where(AuditEntry.seq > after_seq).order_by(col(AuditEntry.seq))
    seq = (await session.exec(query.limit(1))).first()
    try:
        return await _page(session, after_seq, 1)
    except (DBAPIError, UnicodeDecodeError, LookupError) as error:
        raise UnreadableLineError(after_seq + 1 if seq is None else seq) from error


async def head(session: Session) -> ChainHead | None:
    """Returns the head that the store has; `None` before the first line."""
    row = await session.get(AuditHead, 1, populate_existing=True)
    return None if row is None else ChainHead(row.seq, row.hash)


async def passes_through(session: Session, known: ChainHead) -> bool:
    """Whether the line that `known` names is still in the chain, unchanged."""
    query = select(AuditEntry.hash).where(AuditEntry.seq == known.seq)
    end = await head(session)
    is_behind = end is None or end.seq < known.seq
    return not is_behind and (await session.exec(query)).first() == known.hash


async def first_fault(
    session: Session, *, known_heads: Sequence[ChainHead] = ()
) -> tuple[Fault | None, ChainHead]:
    """Returns the first wrong line, and the head of the correct part before it.

    `known_heads` were saved elsewhere while the chain was correct; it must still pass through them.
    """
    end = ChainHead(0, NO_HASH)
    # Read before the lines: other processes may append meanwhile.
    stored = await head(session)
    heads = [*known_heads, *([stored] if stored is not None else [])]
    noted: dict[int, set[bytes]] = {}
    for known in heads:
        noted.setdefault(known.seq, set()).add(known.hash)
    try:
        async for line in every_line(session):
            problem = _problem(line, end)
            if problem is None and noted.get(line.seq, {line.hash}) != {line.hash}:
                problem = "is not the line that was noted as the end of the audit then"
            if problem is not None:
                return Fault(end.seq + 1, problem), end
            end = ChainHead(line.seq, line.hash)
    except UnreadableLineError:
        return Fault(end.seq + 1, "cannot be read"), end
    last = max((known.seq for known in heads), default=0)
    if last > end.seq:
        return Fault(end.seq + 1, f"is missing, the audit is noted to end at {last}"), end
    stored = await head(session)
    if end.seq and stored is None:
        return Fault(end.seq, "is the last one, and the note of where the audit ends is gone"), end
    if stored is not None and stored.seq < end.seq:
        return Fault(stored.seq + 1, "is behind the noted end of the audit"), end
    return None, end


def as_document(line: AuditLine) -> dict[str, Any]:
    """Returns `line` as a JSON object, as an export writes it; enough to check the chain again."""
    return {
        "seq": line.seq,
        "id": line.entry_id,
        "at": line.at,
        "time": format_moment(line.at),
        "tenant_id": line.tenant_id,
        "actor": line.actor,
        "action": line.action,
        "target": line.target,
        "before": _loaded(line.before),
        "after": _loaded(line.after),
        "origin": _loaded(line.origin),
        "previous_hash": line.previous_hash.hex(),
        "hash": line.hash.hex(),
    }


def line_hash(line: AuditLine) -> bytes:
    """Computes the correct hash of `line`."""
    content = {
        "seq": line.seq,
        "entry_id": line.entry_id,
        "at": line.at,
        "tenant_id": line.tenant_id,
        "actor": line.actor,
        "action": line.action,
        "target": line.target,
        "before": line.before,
        "after": line.after,
        "origin": line.origin,
    }
    return hashlib.sha256(line.previous_hash + canonical(content).encode()).digest()


def canonical(content: Mapping[str, Any]) -> str:
    """Writes `content` as canonical JSON."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)


def _row(act: Act, end: ChainHead) -> AuditEntry:
    origin = {"client_ip": act.client_ip, "request_id": act.request_id}
    given = {name: value for name, value in origin.items() if value}
    line = AuditLine(
        seq=end.seq + 1,
        entry_id=act.entry_id,
        at=act.at,
        tenant_id=act.tenant_id,
        actor=_clean(act.actor, 200),
        action=_clean(act.action, 64),
        target=_clean(act.target, 200),
        before=_without_secrets(act.before),
        after=_without_secrets(act.after),
        origin=canonical(given) if given else None,
        previous_hash=end.hash,
        hash=b"",
    )
    fields = {name: getattr(line, name) for name in AuditLine.__slots__}
    return AuditEntry(**{**fields, "hash": line_hash(line)})


def _line(row: AuditEntry) -> AuditLine:
    return AuditLine(**{name: getattr(row, name) for name in AuditLine.__slots__})


def _problem(line: AuditLine, end: ChainHead) -> str | None:
    """Returns what is wrong with `line`, which should follow `end`."""
    if line.seq <= 0:
        return "has a line before it that was never written"
    if line.seq != end.seq + 1:
        return "is missing"
    try:
        is_whole = line_hash(line) == line.hash
    except (TypeError, ValueError):
        # A damaged column may hold a value of another type.
        is_whole = False
    if not is_whole:
        return "was altered"
    if line.previous_hash != end.hash:
        return "does not follow the line before it: one of the two was replaced or moved"
    return None


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _without_secrets(content: Mapping[str, Any] | None) -> str | None:
    return None if content is None else canonical(_stripped(content))


def _stripped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            str(name): _stripped(inner)
            for name, inner in value.items()
            if name not in _SECRET_NAMES
        }
    if isinstance(value, list | tuple):
        return [_stripped(inner) for inner in value]
    return value


def _clean(value: str, most: int) -> str:
    """Returns `value` with only characters that every database accepts."""
    return value.encode("utf-8", "replace").decode().replace("\0", "?")[:most]
