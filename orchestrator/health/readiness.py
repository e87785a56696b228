"""Whether a request would succeed now, and if not, which part prevents it.

It may be asked often: a report is valid for a second, all callers in that time get the same one,
and a part that hangs is asked once and not again until it has answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.backends.triton.placement import Placements, Server
from orchestrator.books.usage_records import StoredBooks
from orchestrator.core.errors import GatewayError
from orchestrator.keys.authenticator import Authenticator
from orchestrator.models.hosted import Deployment, Deployments
from orchestrator.policy.engine import RegoPolicies
from orchestrator.quota.limiter import Limiter
from orchestrator.store.database import Database, StoreError

Status = Literal["ok", "degraded", "failed"]
"""Degraded: requests succeed, but not every one, or not for long."""

_FRESH_S = 1.0
_TIMEOUT_S = 1.5
_WORST_FIRST: tuple[Status, ...] = ("failed", "degraded", "ok")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that requests need."""

    name: str
    status: Status
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """One model of the catalogue. `detail` says why it is not served, or how it was tested."""

    id: str
    ready: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """The state of all parts at one moment. `failed` means that no request would succeed."""

    status: Status
    parts: Sequence[Part]
    models: Sequence[ModelHealth]


Look = Callable[[], Coroutine[None, None, Part]]
"""Finds out how one part is. May be slow; must not raise."""


class Readiness:
    """Checks the parts of one process together. `close` it before the parts."""

    def __init__(
        self,
        looks: Mapping[str, Look],
        deployments: Deployments,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._looks = looks
        self._deployments = deployments
        self._monotonic = monotonic
        self._running: dict[str, asyncio.Task[Part]] = {}
        self._making: asyncio.Task[Report] | None = None
        self._report: Report | None = None
        self._made_at = 0.0

    async def report(self) -> Report:
        """Returns the state of all parts, at most a second old."""
        if self._report is not None and self._monotonic() - self._made_at < _FRESH_S:
            return self._report
        if self._making is None:
            self._making = asyncio.create_task(self._make())
        # A caller that is cancelled must not cancel the report of the others.
        return await asyncio.shield(self._making)

    async def close(self) -> None:
        """Waits for the checks that run; each ends by itself."""
        tasks = [*self._running.values(), *([self._making] if self._making else [])]
        if tasks:
            await asyncio.wait(tasks)

    async def _make(self) -> Report:
        try:
            parts = list(await asyncio.gather(*(self._look(name) for name in self._looks)))
            models = [_model(one) for one in self._deployments.all]
            parts.append(_models(models))
            self._report = Report(_worst(parts), parts, models)
            self._made_at = self._monotonic()
            return self._report
        finally:
            self._making = None

    async def _look(self, name: str) -> Part:
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(self._looks[name]())
            task.add_done_callback(lambda _: self._running.pop(name))
        await asyncio.wait([task], timeout=_TIMEOUT_S)
        if task.done():
            return task.result()
        return Part(name, "failed", f"no answer within {_TIMEOUT_S:g} s")


def store_look(store: Database, authenticator: Authenticator) -> Look:
    """Checks the store; without it, keys that were verified recently still work."""
    asking: asyncio.Task[tuple[str, str]] | None = None

    async def look() -> Part:
        nonlocal asking
        # A store that hangs is asked once: more questions would use up its connections.
        if asking is None or asking.done():
            asking = asyncio.create_task(_store_fault(store))
        await asyncio.wait([asking], timeout=_TIMEOUT_S - 0.5)
        silent = f"the store `{store.name}` does not answer"
        fault, write_fault = asking.result() if asking.done() else (silent, "")
        if write_fault:
            waits = "what is to be written waits, and keys cannot be managed"
            return Part("store", "degraded", f"{write_fault}; {waits}")
        if not fault:
            return Part("store", "ok", store.kind)
        if authenticator.believes_somebody():
            return Part("store", "degraded", f"{fault}; keys that were verified lately work")
        return Part("store", "failed", fault)

    return look


def policy_look(policies: RegoPolicies) -> Look:
    """Checks the evaluation of policies; a version that fails refuses only its own keys."""

    async def look() -> Part:
        try:
            await policies.check()
        except GatewayError as error:
            return Part("policy", "failed", f"{error}: the log says why")
        problems = policies.problems()
        return Part("policy", "degraded" if problems else "ok", "; ".join(problems))

    return look


def limits_look(limiter: Limiter) -> Look:
    """Checks Redis, if limits are counted there; otherwise this process counts."""

    async def look() -> Part:
        match limiter.outage():
            case None:
                return Part("limits", "ok")
            case "refusing":
                return Part(
                    "limits", "failed", "Redis does not answer: callers with limits are refused"
                )
            case "sharing":
                return Part(
                    "limits", "degraded", "Redis does not answer: each worker grants its share"
                )

    return look


def books_look(books: StoredBooks) -> Look:
    """Checks the journal of usage, and its way into the store."""

    async def look() -> Part:
        try:
            books.check()
        except GatewayError as error:
            return Part("books", "failed", "; ".join(books.problems()) or str(error))
        problems = books.problems()
        return Part("books", "degraded" if problems else "ok", "; ".join(problems))

    return look


def problems_look(name: str, problems: Callable[[], Sequence[str]]) -> Look:
    """Checks a part that requests do not wait for: its problems are reported, and refuse none."""

    async def look() -> Part:
        found = problems()
        return Part(name, "degraded" if found else "ok", "; ".join(found))

    return look


def triton_looks(placements: Placements) -> dict[str, Look]:
    """Checks whether each server answers at all, not whether its models do.

    If one of several is away, requests succeed while the others have its models.
    """
    servers = placements.servers
    if len(servers) == 1:
        return {"triton": _triton_look(servers[0], "triton", "failed")}
    names = {server: f"triton {server.name}" for server in servers}
    return {name: _triton_look(server, name, "degraded") for server, name in names.items()}


def _triton_look(server: Server, name: str, away: Status) -> Look:
    async def look() -> Part:
        try:
            async with asyncio.timeout(_TIMEOUT_S - 0.5):
                await server.client.server_id()
        except (GatewayError, TimeoutError):
            return Part(name, away, "it does not answer")
        return Part(name, "ok")

    return look


async def _store_fault(store: Database) -> tuple[str, str]:
    """Returns what is wrong with reading the store, or with writing; empty texts if nothing is."""
    try:
        await store.check_schema()
    except StoreError as error:
        return str(error), ""
    try:
        await store.check_writable()
    except StoreError as error:
        return "", str(error)
    return "", ""


def _model(deployment: Deployment) -> ModelHealth:
    if deployment.ready:
        told = [f"self-test: {deployment.tested}"] if deployment.tested else []
        if deployment.away:
            told.append(f"not served by triton {', '.join(deployment.away)}")
            told += [deployment.problem] if deployment.problem else []
        return ModelHealth(deployment.model.id, ready=True, detail="; ".join(told))
    detail = deployment.problem or "Triton does not have it loaded, or it gives no answer"
    return ModelHealth(deployment.model.id, ready=False, detail=detail)


def _models(models: Sequence[ModelHealth]) -> Part:
    away = [model.id for model in models if not model.ready]
    if not away:
        return Part("models", "ok")
    if len(away) == len(models):
        return Part("models", "failed", "no model is served")
    return Part("models", "degraded", f"not served: {', '.join(away)}")


def _worst(parts: Sequence[Part]) -> Status:
    found = {part.status for part in parts}
    return next((status for status in _WORST_FIRST if status in found), "ok")
