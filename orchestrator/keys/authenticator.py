"""Authentication: turns the secret of a request into a frozen `Principal`.

A cached key costs one hash and two dict look-ups. Once in `store.key_cache_s` the store is asked
which keys have changed (`keys/changes.py`), and only those are read again. So a cached key is
never older than that, however many keys there are. While the store is unreachable, a key verified
less than `store.key_grace_s` ago is still accepted; any other caller gets 503, never 401, because
the key may be good.
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
"""Max concurrent look-ups of unknown keys; the other connections are for known keys."""
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
    """Wall clock; infinite for a key that does not expire."""
    replaced_at: float
    """Wall clock: when a secret from before a rotation expires; infinite for a current secret."""
    verified_at: float
    ask_again_at: float
    use: tuple[str, bytes]
    """The key's id and digest, under which its last use is recorded."""

    def fault(self, now: float) -> Unauthenticated | None:
        """Returns why the key is not valid at `now`, or `None` if it is valid."""
        principal = self.principal
        if self.revoked or now >= self.replaced_at:
            return _refusal("key_revoked", principal)
        if now >= self.expires_at:
            return _refusal("key_expired", principal)
        return None


class Authenticator:
    """Checks keys against the store and caches the results for a short time.

    Call `start` before use and `close` afterwards. The clocks are arguments for the tests.
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
        # The digests of valid secrets, by their marks. A digest does not say whether the key is
        # still valid, so these entries never become stale.
        self._digests: BoundedCache[bytes, bytes] = BoundedCache(settings.store.key_cache_keys)
        self._mark_key = secrets.token_bytes(32)
        # Separate from the known keys, so that a flood of invented keys evicts no valid key.
        self._unknown_keys: dict[bytes, float] = {}
        self._unknown_key_turns = asyncio.Semaphore(_UNKNOWN_KEYS_AT_ONCE)
        self._lookups: dict[bytes, asyncio.Task[_Known | None]] = {}
        self._running: set[asyncio.Task[_Known | None]] = set()
        self._changes = 0
        # Monotonic: when the last successful check for changes began, and until when cached keys
        # are fresh because of it.
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
        """Writes the last uses to the store and closes it."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []
        # Not cancelled: a connection whose query is interrupted cannot be closed cleanly. Each
        # task ends by itself within the busy timeout.
        checking = [] if self._checking is None else [self._checking]
        await asyncio.gather(*self._running, *checking, return_exceptions=True)
        await self.record_use()
        await self._database.close()

    def problems(self) -> list[str]:
        """Returns what prevents the look-up of keys, in sentences for the operator."""
        return ["the store of keys does not answer"] if self._down else []

    def forget(self, key_id: str) -> None:
        """Drops the cached key, so that a change just written takes effect at once.

        Call it after the commit.
        """
        self._changes += 1
        for digest in [at for at, known in self._known.items() if known.principal.key_id == key_id]:
            self._known.drop(digest)
        # New requests must not wait for a look-up that may have read the key before the change.
        self._lookups.clear()

    def believes_somebody(self) -> bool:
        """Whether any cached key would be accepted without the store."""
        since, now = self._monotonic() - self._grace_s, self._now()
        return any(
            self._verified_at(known) > since and known.fault(now) is None
            for _, known in self._known.items()
        )

    async def principal_of(
        self, tenant_id: str, key_id: str
    ) -> tuple[Principal, Unauthenticated | None] | None:
        """Reads a key from the store: its principal, and why it would be refused, if it would be.

        Returns `None` when the tenant has no such key. Raises: StoreError.
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
        """Returns the caller of `secret` if its key is cached, fresh and still valid.

        In all other cases call `authenticate`.
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
        """Returns the caller of `secret`. Raises: Unauthenticated, StoreUnavailable."""
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
        """Whether the cached key can be used now without asking the store."""
        now = self._monotonic()
        return now < self._fresh_until or now < known.ask_again_at

    def _verified_at(self, known: _Known) -> float:
        """When the cached key was last known to agree with the store."""
        return max(known.verified_at, self._checked_at)

    def _note_use(self, known: _Known, now: float) -> None:
        self._is_used = True
        self._used_at[known.use] = int(now)

    def _mark(self, secret: str) -> bytes:
        """Returns a keyed hash that identifies a secret in this process; faster than its digest."""
        text = secret.encode("latin-1", "replace")
        return hashlib.blake2b(text, digest_size=32, key=self._mark_key).digest()

    async def _asked(self, digest: bytes, secret: str, known: _Known | None) -> _Known:
        """Returns the store's current answer, or during an outage the cached one."""
        now = self._monotonic()
        believed = known is not None and now - self._verified_at(known) < self._grace_s
        if known is None and self._unknown_keys.get(digest, -math.inf) > now:
            raise _refusal("invalid_api_key")
        if self._down and not believed and now < self._retry_at:
            raise self._unavailable()
        lookup = self._lookup(digest, secret)
        # In an outage, an accepted key does not wait: the look-up goes on in the background.
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
        """Returns the running look-up of `digest`; requests with the same key share it."""
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
        # Retrieved here because all callers that waited may have disconnected.
        error = task.exception()
        if error is not None and not isinstance(error, StoreError):
            _log.error("looking up a key failed", exc_info=error)

    async def _look_up(self, digest: bytes, secret: str) -> _Known | None:
        """Reads the key from the store and caches it. Raises: StoreError."""
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
        """Returns the running check for changed keys; concurrent callers share it."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        return self._checking

    async def _check(self) -> None:
        """Drops the keys that have changed and marks the others as fresh. Raises: StoreError."""
        began_at = self._monotonic()
        async with self._database.reading() as session:
            changes = await key_changes.recent(session)
        new = [change for change in changes if change.seq not in self._seen]
        self._seen = {change.seq for change in changes}
        # If the last check is too long ago, changes of the cached keys may have been missed.
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
            # Look-ups that are still running may have read the key before the change.
            self._changes += 1
            self._lookups.clear()
        self._checked_at = began_at
        self._fresh_until = began_at + self._cache_s
        self._note_success()

    async def _check_forever(self) -> None:
        """Checks for changes in advance, so that no request waits; pauses without requests."""
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
        """Replaces a digest of an old pepper; if that fails, the next look-up tries again."""
        try:
            async with self._database.unit_of_work() as session:
                await key_queries.digest_anew(session, found.digest, digest, self._pepper)
        except StoreError as error:
            _log.warning("key %s keeps its old pepper for now: %s", found.key.id, error)

    def _remember(self, digest: bytes, found: FoundKey | None, *, changed: bool) -> _Known | None:
        """Caches the look-up's result, unless `changed`: then only its waiting callers get it.

        `changed` says that something was written while the look-up ran.
        """
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
        """Writes the last use of the keys seen; what it cannot write is kept for the next call."""
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
