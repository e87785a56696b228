"""Who calls: turns the secret of a request into a frozen `Principal`.

A key that is known costs one hash and two dict look-ups. Once in `store.key_cache_s` the store is
asked whether any key has changed (`keys/changes.py`), and only those that have are read anew,
so what is known of a key is never older than that, however many keys there are. While it is out of
reach a key verified less than `store.key_grace_s` ago is still believed; any other caller gets
503, never 401, because nobody knows whether the key is good.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, assert_never

from orchestrator.core.caches import BoundedCache, remember
from orchestrator.core.errors import StoreUnavailable, Unauthenticated
from orchestrator.core.plans import limits_of
from orchestrator.keys import changes as key_changes
from orchestrator.keys import queries as key_queries
from orchestrator.keys.principal import Principal
from orchestrator.keys.queries import FoundKey
from orchestrator.keys.secret import is_key_secret, load_pepper, load_previous_peppers
from orchestrator.settings import Settings
from orchestrator.store.database import Database, StoreError
from orchestrator.store.tables import Tenant, VirtualKey, explicit_limits
from orchestrator.telemetry.instruments import Tally

_log = logging.getLogger(__name__)

_MAX_UNKNOWN_KEYS = 10_000
_UNKNOWN_KEYS_AT_ONCE = 4
"""Look-ups of keys never seen before that run together; connections are left for known keys."""
_RETRY_S = 1.0
_RECORD_USE_EVERY_S = 30.0

Clock = Callable[[], float]


@dataclass(slots=True)
class _Known:
    """A key that is in the store, as of `verified_at` (monotonic)."""

    digest: bytes = field(repr=False)
    principal: Principal
    revoked: bool
    expires_at: float
    """Wall clock; infinite for a key without an end."""
    replaced_at: float
    """Wall clock: when a secret from before a rotation stops to be good; else infinite."""
    verified_at: float
    ask_again_at: float
    use: tuple[str, bytes]
    """Its key and its digest, by which its last use is noted."""

    def fault(self, now: float) -> Unauthenticated | None:
        """Why the key is not good at `now`, if it is not."""
        principal = self.principal
        if self.revoked or now >= self.replaced_at:
            return _refusal("key_revoked", principal)
        if now >= self.expires_at:
            return _refusal("key_expired", principal)
        return None


class Authenticator:
    """Checks keys against the store, and remembers what it found for a short while.

    `start` before use, `close` afterwards. The clocks are arguments for the tests' sake.
    """

    def __init__(
        self, settings: Settings, *, monotonic: Clock = time.monotonic, now: Clock = time.time
    ) -> None:
        """Raises: SettingsError, StoreError."""
        self._cache_s = settings.store.key_cache_s
        self._grace_s = max(settings.store.key_grace_s, self._cache_s)
        self._timeout_s = settings.store.key_lookup_timeout_s
        self.tally = Tally()
        self._monotonic = monotonic
        self._now = now
        self._pepper = load_pepper(settings)
        self._previous_peppers = load_previous_peppers(settings)
        self._database = Database(settings)
        self._known: BoundedCache[bytes, _Known] = BoundedCache(settings.store.key_cache_keys)
        # The digests of secrets that were good, by their marks. A digest says nothing of whether
        # a key still is, so nothing here is ever out of date.
        self._digests: BoundedCache[bytes, bytes] = BoundedCache(settings.store.key_cache_keys)
        self._mark_key = secrets.token_bytes(32)
        # Apart from the known ones, so that a flood of made-up keys pushes no good key out.
        self._unknown_keys: dict[bytes, float] = {}
        self._unknown_key_turns = asyncio.Semaphore(_UNKNOWN_KEYS_AT_ONCE)
        self._lookups: dict[bytes, asyncio.Task[_Known | None]] = {}
        self._running: set[asyncio.Task[_Known | None]] = set()
        self._changes = 0
        # Monotonic: when the last look at changes began that was answered, and until when what is
        # known is good by it.
        self._checked_at = self._fresh_until = -math.inf
        self._seen: set[int] = set()
        self._checking: asyncio.Task[None] | None = None
        self._is_used = False
        self._down = False
        self._retry_at = -math.inf
        self._used_at: dict[tuple[str, bytes], int] = {}
        self._workers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Raises: StoreError when the store cannot be read or is at another revision."""
        try:
            await self._database.check_schema()
        except StoreError:
            await self._database.close()
            raise
        work = (self._record_use_forever(), self._check_forever())
        self._workers = [asyncio.create_task(one) for one in work]

    async def close(self) -> None:
        """Writes down the last uses and closes the store."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []
        # Not cancelled: a connection whose query is cut off cannot be closed cleanly. Each ends
        # by itself within the busy timeout.
        checking = [] if self._checking is None else [self._checking]
        await asyncio.gather(*self._running, *checking, return_exceptions=True)
        await self.record_use()
        await self._database.close()

    def problems(self) -> list[str]:
        """What keeps keys from being looked up, in sentences for the operator."""
        return ["the store of keys does not answer"] if self._down else []

    def forget(self, key_id: str) -> None:
        """Believes nothing that was known of the key: what has just been written counts at once.

        To be called after the commit.
        """
        self._changes += 1
        for digest in [at for at, known in self._known.items() if known.principal.key_id == key_id]:
            self._known.drop(digest)
        # Whoever comes now must not wait for an answer that may be from before the change.
        self._lookups.clear()

    def believes_somebody(self) -> bool:
        """Whether there is a key that would be let in without the store."""
        since, now = self._monotonic() - self._grace_s, self._now()
        return any(
            self._verified_at(known) > since and known.fault(now) is None
            for _, known in self._known.items()
        )

    async def principal_of(
        self, tenant_id: str, key_id: str
    ) -> tuple[Principal, Unauthenticated | None] | None:
        """Who would call with that key, and why it would be refused, if so; read from the store.

        `None` when the tenant has no such key. Raises: StoreError.
        """
        async with self._database.reading() as session:
            row = await key_queries.find(session, key_id, tenant_id=tenant_id)
            tenant = await session.get(Tenant, tenant_id)
        if row is None or tenant is None:
            return None
        found = FoundKey(row, tenant, row.digest, previous=False)
        known = _known(found, row.digest, verified_at=0.0, ask_again_at=0.0)
        return known.principal, known.fault(self._now())

    def recall(self, secret: str | None) -> Principal | None:
        """The caller behind `secret`, if its key was good a short while ago and still is.

        Anything else is for `authenticate` to tell.
        """
        if not secret:
            return None
        digest = self._digests.get(self._mark(secret))
        known = None if digest is None else self._known.get(digest)
        if (
            known is None
            or digest is None
            or not self._is_fresh(known)
            or not hmac.compare_digest(known.digest, digest)
            or known.fault(now := self._now()) is not None
        ):
            return None
        self.tally.hits += 1
        self._note_use(known, now)
        return known.principal

    async def authenticate(self, secret: str | None) -> Principal:
        """The caller behind `secret`. Raises: Unauthenticated, StoreUnavailable."""
        if (recalled := self.recall(secret)) is not None:
            return recalled
        if not secret:
            raise _refusal("missing_api_key")
        if not is_key_secret(secret):
            raise _refusal("invalid_api_key")
        digest = self._pepper.digest(secret)
        known = self._known.get(digest)
        if known is not None and self._is_fresh(known):
            self.tally.hits += 1
        else:
            self.tally.misses += 1
            known = await self._asked(digest, secret, known)
        if not hmac.compare_digest(known.digest, digest):
            raise _refusal("invalid_api_key")
        fault = known.fault(now := self._now())
        if fault is not None:
            raise fault
        self._digests.put(self._mark(secret), digest)
        self._note_use(known, now)
        return known.principal

    def _is_fresh(self, known: _Known) -> bool:
        """Whether what is known needs no question now."""
        now = self._monotonic()
        return now < self._fresh_until or now < known.ask_again_at

    def _verified_at(self, known: _Known) -> float:
        """When it was last known to be as the store has it."""
        return max(known.verified_at, self._checked_at)

    def _note_use(self, known: _Known, now: float) -> None:
        self._is_used = True
        self._used_at[known.use] = int(now)

    def _mark(self, secret: str) -> bytes:
        """What a secret is known by within this process, made faster than its digest."""
        text = secret.encode("latin-1", "replace")
        return hashlib.blake2b(text, digest_size=32, key=self._mark_key).digest()

    async def _asked(self, digest: bytes, secret: str, known: _Known | None) -> _Known:
        """What the store says now, or else what it said a while ago."""
        now = self._monotonic()
        believed = known is not None and now - self._verified_at(known) < self._grace_s
        if known is None and self._unknown_keys.get(digest, -math.inf) > now:
            raise _refusal("invalid_api_key")
        if self._down and not believed and now < self._retry_at:
            raise self._unavailable()
        lookup = self._lookup(digest, secret)
        # In an outage nobody whose key is believed waits: the look-up goes on in the background.
        if not (self._down and believed):
            await asyncio.wait({lookup}, timeout=self._timeout_s)
            if lookup.done() and lookup.exception() is None:
                if (found := lookup.result()) is None:
                    raise _refusal("invalid_api_key")
                return found
            if not lookup.done():
                self._note_failure(f"no answer within {self._timeout_s:g} s")
        if known is not None and believed:
            return known
        raise self._unavailable()

    def _lookup(self, digest: bytes, secret: str) -> asyncio.Task[_Known | None]:
        """The running look-up of `digest`; all who ask for the same key share one."""
        task = self._lookups.get(digest)
        if task is None:
            task = asyncio.create_task(self._look_up(digest, secret))
            self._lookups[digest] = task
            self._running.add(task)
            task.add_done_callback(lambda done: self._finished(digest, done))
        return task

    def _finished(self, digest: bytes, task: asyncio.Task[_Known | None]) -> None:
        self._running.discard(task)
        if self._lookups.get(digest) is task:
            del self._lookups[digest]
        if task.cancelled():
            return
        # Asked for here because everybody who waited may have gone.
        error = task.exception()
        if error is not None and not isinstance(error, StoreError):
            _log.error("looking up a key failed", exc_info=error)

    async def _look_up(self, digest: bytes, secret: str) -> _Known | None:
        """Asks the store and remembers the answer. Raises: StoreError."""
        candidates = [digest, *(pepper.digest(secret) for pepper in self._previous_peppers)]
        known = self._known.get(digest)
        changes = self._changes
        try:
            if known is not None:
                await asyncio.shield(self._checked())
                if self._known.get(digest) is known and self._is_fresh(known):
                    return known
                changes = self._changes
                found = await self._read(candidates)
            else:
                async with self._unknown_key_turns:
                    found = await self._read(candidates)
        except StoreError as error:
            self._note_failure(str(error))
            if (known := self._known.get(digest)) is not None:
                end = self._verified_at(known) + self._grace_s
                known.ask_again_at = min(self._monotonic() + _RETRY_S, end)
            raise
        self._note_success()
        if found is not None and found.digest != digest:
            await self._digest_anew(found, digest)
        return self._remember(digest, found, changed=self._changes != changes)

    def _checked(self) -> asyncio.Task[None]:
        """The running look at what has changed; all who need one share it."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        return self._checking

    async def _check(self) -> None:
        """Forgets the keys that have changed; the others are good again. Raises: StoreError."""
        began_at = self._monotonic()
        async with self._database.reading() as session:
            changes = await key_changes.recent(session)
        new = [change for change in changes if change.seq not in self._seen]
        self._seen = {change.seq for change in changes}
        # Of what was known before, changes may have been missed if the last look is too long ago.
        horizon = began_at - key_changes.WINDOW_S / 2
        is_gap = self._checked_at < horizon
        if new or is_gap:
            ids = {change.key_id for change in new}
            tenants = {change.tenant_id for change in new if change.key_id is None}
            for digest, known in list(self._known.items()):
                caller = known.principal
                is_missed = is_gap and known.verified_at < horizon
                if is_missed or caller.key_id in ids or caller.tenant_id in tenants:
                    self._known.drop(digest)
        if new:
            # Answers that are on their way may be from before the change.
            self._changes += 1
            self._lookups.clear()
        self._checked_at = began_at
        self._fresh_until = began_at + self._cache_s
        self._note_success()

    async def _check_forever(self) -> None:
        """Looks ahead of the requests, so that none waits; not while there are none."""
        while True:
            await asyncio.sleep(self._cache_s / 2)
            if self._is_used:
                self._is_used = False
                # The next request reports the outage.
                with suppress(StoreError):
                    await asyncio.shield(self._checked())

    async def _read(self, digests: Sequence[bytes]) -> FoundKey | None:
        async with self._database.reading() as session:
            return await key_queries.find_by_digests(session, digests)

    async def _digest_anew(self, found: FoundKey, digest: bytes) -> None:
        """Leaves the old pepper behind; should it fail, the next look-up tries again."""
        try:
            async with self._database.unit_of_work() as session:
                await key_queries.digest_anew(session, found.digest, digest, self._pepper)
        except StoreError as error:
            _log.warning("key %s keeps its old pepper for now: %s", found.key.id, error)

    def _remember(self, digest: bytes, found: FoundKey | None, *, changed: bool) -> _Known | None:
        """`changed`: something was written meanwhile, so the answer serves those who wait only."""
        now = self._monotonic()
        if changed:
            return (
                None if found is None else _known(found, digest, verified_at=now, ask_again_at=now)
            )
        self._known.drop(digest)
        self._unknown_keys.pop(digest, None)
        if found is None:
            remember(self._unknown_keys, digest, now + self._cache_s, _MAX_UNKNOWN_KEYS)
            return None
        known = _known(found, digest, verified_at=now, ask_again_at=now + self._cache_s)
        self._known.put(digest, known)
        return known

    def _note_failure(self, reason: str) -> None:
        if not self._down:
            _log.warning("the store of keys cannot be asked: %s", reason)
        self._down = True
        self._retry_at = self._monotonic() + _RETRY_S

    def _note_success(self) -> None:
        if self._down:
            _log.warning("the store of keys answers again")
            self._down = False

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(
            "The key cannot be checked at the moment.", retry_after_s=_RETRY_S, retryable=True
        )

    async def _record_use_forever(self) -> None:
        while True:
            await asyncio.sleep(_RECORD_USE_EVERY_S)
            await self.record_use()

    async def record_use(self) -> None:
        """Writes the last use of the keys seen; what cannot be written waits for next time."""
        used_at, self._used_at = self._used_at, {}
        if not used_at:
            return
        try:
            async with self._database.unit_of_work() as session:
                await key_queries.record_use(session, used_at)
                await key_changes.forget_old(session)
        except StoreError as error:
            _log.warning("the last use of %d keys is not written yet: %s", len(used_at), error)
            self._used_at = used_at | self._used_at


def _known(found: FoundKey, digest: bytes, *, verified_at: float, ask_again_at: float) -> _Known:
    row = found.key
    replaced_at = math.inf
    if found.previous and row.previous_expires_at is not None:
        replaced_at = row.previous_expires_at
    return _Known(
        digest=digest,
        principal=_principal(row, found.tenant),
        revoked=row.status != "active",
        expires_at=math.inf if row.expires_at is None else row.expires_at,
        replaced_at=replaced_at,
        verified_at=verified_at,
        ask_again_at=ask_again_at,
        use=(row.id, digest),
    )


def _principal(row: VirtualKey, tenant: Tenant) -> Principal:
    return Principal(
        key_id=row.id,
        key_label=row.label,
        tenant_id=row.tenant_id,
        admin=row.scope == "admin",
        allowed_models=tuple(row.allowed_models),
        limits=limits_of(row.plan, explicit_limits(row)),
        tenant_limits=limits_of(tenant.plan, explicit_limits(tenant)),
        policy_id=row.policy_id,
        plan=row.plan,
        tenant_plan=tenant.plan,
        route_policy=row.route_policy,
        deployment_id=row.deployment_id,
        metadata=row.key_metadata,
        api_disabled=tenant.api_disabled,
    )


_Reason = Literal["missing_api_key", "invalid_api_key", "key_expired", "key_revoked"]


def _refusal(reason: _Reason, principal: Principal | None = None) -> Unauthenticated:
    match reason:
        case "missing_api_key":
            message = "Missing API key. Send it as `Authorization: Bearer <key>`."
        case "invalid_api_key":
            message = "Invalid API key provided."
        case "key_expired":
            message = "This API key has expired."
        case "key_revoked":
            message = "This API key has been revoked."
        case _:
            assert_never(reason)
    if principal is None:
        return Unauthenticated(message, reason=reason)
    return Unauthenticated(
        message, reason=reason, key_id=principal.key_id, tenant_id=principal.tenant_id
    )
