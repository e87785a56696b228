"""Counters in Redis: one round trip for each step, within the timeout of the settings.

The steps are our own scripts, because a strategy of the `limits` library takes one limit at a
time and cannot take key and tenant together.

Names: `<prefix>:workers` holds the time until which each worker counts as alive;
`<prefix>:line:<owner>` the number of its last line applied; every counter is a hash of what is
`used` and of what each worker holds, of which only the parts of living workers count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redis.commands.core import AsyncScript

from orchestrator.quota.counters import DAY_S, WINDOW_S, Claim, Counter
from orchestrator.quota.redis_calls import RedisCalls, RedisDownError
from orchestrator.quota.token_journal import Line
from orchestrator.settings import RedisSettings

_MAX_CONNECTIONS = 64
_LIFETIME_MS = {
    "rpm": 2 * WINDOW_S * 1000,
    "tpd": 2 * DAY_S * 1000,
    "concurrency": DAY_S * 1000,
}
_OWNER_LIFETIME_MS = 7 * DAY_S * 1000
_SCRIPTS = Path(__file__).parent / "lua"


class UnknownWorkerError(Exception):
    """Redis does not know this worker, or no longer."""


class UnseededError(Exception):
    """Redis has no data for the days of `counters`; the store may have."""

    def __init__(self, counters: tuple[Counter, ...]) -> None:
        super().__init__()
        self.counters = counters


class RedisStore:
    """The scripts. Every method raises RedisDownError."""

    def __init__(self, settings: RedisSettings) -> None:
        """Opens no connection yet."""
        assert settings.url is not None
        self._calls = RedisCalls(settings.url.get_secret_value(), settings.timeout_s)
        self._ttl_ms = int(settings.worker_ttl_s * 1000)
        self._prefix = settings.prefix
        self._take = self._script("take")
        self._apply = self._script("apply")
        self._register = self._script("register")
        self._beat = self._script("beat")
        self._leave = self._script("leave")
        self._seed = self._script("seed")

    async def close(self) -> None:
        """Closes the connections."""
        await self._calls.close()

    async def take(
        self, me: str, claims: Sequence[Claim], *, dry: bool, seeded: bool, latest_ms: int
    ) -> tuple[int | None, list[int]]:
        """Returns the index of the first claim without room, and the count of each counter.

        `seeded` requires that Redis has the days. Raises: UnseededError, UnknownWorkerError.
        """
        arguments: list[str | int] = [me, int(dry), latest_ms]
        for claim in claims:
            kind = claim.counter.kind
            arguments += [claim.limit, claim.cost, "used" if kind == "rpm" else me]
            arguments += [_LIFETIME_MS[kind], int(seeded and kind == "tpd")]
        code, *rest = await self._run(
            self._take, [self._workers, *(self._name(claim.counter) for claim in claims)], arguments
        )
        if code == -1:
            raise UnknownWorkerError
        if code == -2:
            raise UnseededError(tuple(claims[index - 1].counter for index in rest))
        if code == -3:
            raise RedisDownError("it was asked in vain")
        return (code - 1 if code else None), rest

    async def apply(self, lines: Sequence[Line]) -> None:
        """Applies `lines`, all of one owner, each of them once."""
        owner = lines[0].owner
        keys = [f"{self._prefix}:line:{owner}"]
        places: dict[Counter, int] = {}
        arguments: list[str | int] = [owner, _OWNER_LIFETIME_MS]
        for line in lines:
            for change in line.changes:
                if change.counter not in places:
                    keys.append(self._name(change.counter))
                    places[change.counter] = len(keys)
                arguments += [line.number, places[change.counter], change.used, change.held]
                arguments.append(_LIFETIME_MS[change.counter.kind])
        await self._run(self._apply, keys, arguments)

    async def register(self, me: str, former: Sequence[str], held: Mapping[Counter, int]) -> int:
        """Registers `me`, with what its requests hold, instead of `former`; returns the ms time."""
        arguments: list[str | int] = [me, self._ttl_ms, " ".join(former)]
        for counter, amount in held.items():
            arguments += [amount, _LIFETIME_MS[counter.kind]]
        keys = [self._workers, *(self._name(counter) for counter in held)]
        return int(await self._run(self._register, keys, arguments))

    async def beat(self, me: str) -> int:
        """Keeps `me` alive; returns the time in ms. Raises: UnknownWorkerError."""
        at_ms = int(await self._run(self._beat, [self._workers], [me, self._ttl_ms]))
        if not at_ms:
            raise UnknownWorkerError
        return at_ms

    async def seed(self, counter: Counter, used: int) -> None:
        """Sets the used tokens of a day that Redis has no data for, as the store has them."""
        await self._run(self._seed, [self._name(counter)], [used, _LIFETIME_MS[counter.kind]])

    async def leave(self, me: str) -> None:
        """Removes `me`; what it holds does not count any more."""
        await self._run(self._leave, [self._workers], [me])

    @property
    def _workers(self) -> str:
        return f"{self._prefix}:workers"

    def _name(self, counter: Counter) -> str:
        return f"{self._prefix}:{counter.name}"

    def _script(self, name: str) -> AsyncScript:
        return self._calls.script((_SCRIPTS / f"{name}.lua").read_text(encoding="utf-8"))

    async def _run(
        self, script: AsyncScript, keys: Sequence[str], arguments: Sequence[str | int]
    ) -> Any:
        return await self._calls.run(script, keys, arguments)
