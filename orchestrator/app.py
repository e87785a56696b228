"""The composition root: every object is built here, once, in order."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI

from orchestrator.audit.denials import AuditTrail
from orchestrator.backends.triton.backend import TritonBackend
from orchestrator.backends.triton.comeback import WaitingRoom
from orchestrator.backends.triton.placement import Placements, open_placements
from orchestrator.backends.triton.prefix_salts import PrefixSalts
from orchestrator.books.usage_records import StoredBooks
from orchestrator.contract.catalogue import Catalogue, load_catalogue
from orchestrator.core.fair_threads import FairThreads, trim_memory
from orchestrator.health.gauges import observe
from orchestrator.health.readiness import (
    Readiness,
    books_look,
    limits_look,
    policy_look,
    problems_look,
    store_look,
    triton_looks,
)
from orchestrator.http.intake import new_intake
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.secret import load_pepper, load_previous_peppers
from orchestrator.keys.service import Keys
from orchestrator.models.hosted import Deployments
from orchestrator.pipeline.explain import Explainer
from orchestrator.pipeline.gate import Gate
from orchestrator.pipeline.gateway import Gateway
from orchestrator.pipeline.routing import Router
from orchestrator.policy.engine import RegoPolicies
from orchestrator.policy.service import PolicyAdmin
from orchestrator.policy.start import new_candidates, new_evaluators, start_policies
from orchestrator.quota.limiter import Limiter
from orchestrator.quota.memory import MemoryCounters
from orchestrator.quota.token_journal import TokenJournal
from orchestrator.rego.pool import Evaluators
from orchestrator.responses.runs import Runs
from orchestrator.responses.service import Responses
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.supervisor.state import faults_file
from orchestrator.supervisor.triton_metrics import triton_metrics
from orchestrator.telemetry.process import Telemetry
from orchestrator.triton.endpoint import connections
from orchestrator.wire import surfaces
from orchestrator.wire.management.audit import routes as audit_routes
from orchestrator.wire.management.denials import audited
from orchestrator.wire.management.explain import routes as explain_routes
from orchestrator.wire.management.keys import routes as key_routes
from orchestrator.wire.management.metrics import routes as metrics_routes
from orchestrator.wire.management.policies import routes as policy_routes
from orchestrator.wire.management.usage import routes as usage_routes
from orchestrator.wire.openai.responses.routes import routes as response_routes

if TYPE_CHECKING:
    from orchestrator.quota.shared import SharedCounters

_COLLECT_AFTER = (10_000, 20, 50)
"""A request makes hundreds of objects, and reference counting frees nearly all; the default would
run a collection for each request."""


def _settle_memory() -> None:
    """Frees what only the start needed; the remaining objects are not collected again.

    Visiting them at every collection cost a third of the time of a request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    # The C library keeps freed memory between objects that stay, 7 MB by now.
    trim_memory()


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a running application."""

    authenticator: Authenticator
    store: Database
    evaluators: Evaluators
    policies: RegoPolicies
    books: StoredBooks
    placements: Placements
    deployments: Deployments
    limiter: Limiter
    gateway: Gateway
    explainer: Explainer


def create_app(settings: Settings, worker: int = 0) -> surfaces.Application:
    """Creates the application. `settings.triton` must say where Triton listens.

    `worker` is the number of this process among those of the same settings.

    What needs the running loop (a connection belongs to the loop it was made in) is built when
    the application starts, and closed in reverse order when it stops.
    Raises: CatalogueError, SettingsError. Its start raises: SettingsError, StoreError.
    """
    catalogue = load_catalogue(settings.catalogue)
    connections(catalogue, settings)
    trail = AuditTrail(settings)
    telemetry = Telemetry(settings, worker)
    intake, threads = new_intake(settings.intake, settings.server)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await telemetry.start()
            stack.push_async_callback(telemetry.close)
            stack.push_async_callback(threads.close)
            parts = await _start(settings, catalogue, trail, telemetry, threads, stack)
            _observe(parts, settings, trail, telemetry)
            _mount(app, parts, settings, trail, telemetry, stack)
            _settle_memory()
            yield

    return surfaces.new_app(
        lifespan,
        server=settings.server,
        hosts=settings.hosts,
        on_error=audited(trail),
        telemetry=telemetry,
        intake=intake,
    )


async def _start(
    settings: Settings,
    catalogue: Catalogue,
    trail: AuditTrail,
    telemetry: Telemetry,
    threads: FairThreads,
    stack: AsyncExitStack,
) -> _Parts:
    """Starts the pipeline from the keys down to Triton; `stack` closes it."""
    authenticator = Authenticator(settings)
    await authenticator.start()
    stack.push_async_callback(authenticator.close)
    trail.start()
    stack.push_async_callback(trail.close)
    store = Database(settings)
    stack.push_async_callback(store.close)
    evaluators = new_evaluators(settings)
    stack.push_async_callback(evaluators.close)
    policies = start_policies(settings, store, evaluators)
    stack.push_async_callback(policies.close)
    books = StoredBooks(settings, store)
    books.start()
    stack.push_async_callback(books.close)
    placements, deployments = await _start_triton(settings, catalogue, stack)
    limiter = await _start_quota(settings, stack)
    local = _triton_backend(settings, placements, deployments, threads)
    most = settings.store.key_cache_keys
    gate = Gate(deployments, policies, Router(local), most)
    gateway = Gateway(gate, deployments, limiter, books, telemetry)
    explainer = Explainer(gate, limiter, books)
    stack.push_async_callback(gateway.close)
    return _Parts(
        authenticator=authenticator,
        store=store,
        evaluators=evaluators,
        policies=policies,
        books=books,
        placements=placements,
        deployments=deployments,
        limiter=limiter,
        gateway=gateway,
        explainer=explainer,
    )


def _triton_backend(
    settings: Settings, placements: Placements, deployments: Deployments, threads: FairThreads
) -> TritonBackend:
    """Creates the backend that calls the Tritons of this appliance."""
    return TritonBackend(
        deployments.served,
        placements,
        PrefixSalts(load_pepper(settings).secret),
        first_token_timeout_s=settings.triton.first_token_timeout_s,
        threads=threads,
        clamps_max_tokens=settings.server.clamp_max_tokens,
        waiting=WaitingRoom(
            settings.triton.most_waiting if settings.triton.wait_for_model_s else 0
        ),
    )


def _observe(parts: _Parts, settings: Settings, trail: AuditTrail, telemetry: Telemetry) -> None:
    """Adds metrics that report state, in addition to those that count events."""
    observe(
        telemetry.metrics.registry,
        deployments=parts.deployments,
        engines=parts.placements,
        data_dir=settings.data_dir,
        problems=(parts.authenticator.problems, parts.books.problems, trail.problems),
        caches={"keys": parts.authenticator.tally, "decisions": parts.policies.tally},
    )


def _mount(
    app: FastAPI,
    parts: _Parts,
    settings: Settings,
    trail: AuditTrail,
    telemetry: Telemetry,
    stack: AsyncExitStack,
) -> None:
    """Puts the routes on `app`, and starts what only they need."""
    authenticator, gateway, store = parts.authenticator, parts.gateway, parts.store
    modules = settings.policy.engine == "embedded"
    candidates = new_candidates(settings, parts.evaluators)
    admin = PolicyAdmin(store, candidates, parts.policies, modules=modules)
    pepper = load_pepper(settings)
    keys = Keys(store, pepper, authenticator)
    peppers = [one.secret for one in (pepper, *load_previous_peppers(settings))]
    responses, runs = _start_responses(settings, store, stack)
    surfaces.mount(
        app,
        authenticator=authenticator,
        gateway=gateway,
        readiness=_readiness(parts, trail, stack),
        realtime=settings.realtime,
        drain_s=settings.server.drain_s,
        metrics=_metrics_routes(settings, authenticator, telemetry),
        management={
            "responses": response_routes(authenticator, gateway, responses, runs, peppers),
            "keys": key_routes(authenticator, keys),
            "policies": [
                *policy_routes(authenticator, admin),
                *explain_routes(authenticator, parts.explainer),
            ],
            "usage": usage_routes(authenticator, parts.books),
            "audit": audit_routes(authenticator, trail),
        },
    )


def _readiness(parts: _Parts, trail: AuditTrail, stack: AsyncExitStack) -> Readiness:
    """Creates the readiness check, which looks at every part on request; `stack` closes it."""
    looks = {
        "store": store_look(parts.store, parts.authenticator),
        "policy": policy_look(parts.policies),
        "limits": limits_look(parts.limiter),
        "books": books_look(parts.books),
        "audit": problems_look("audit", trail.problems),
        **triton_looks(parts.placements),
    }
    readiness = Readiness(looks, parts.deployments)
    stack.push_async_callback(readiness.close)
    return readiness


def _start_responses(
    settings: Settings, store: Database, stack: AsyncExitStack
) -> tuple[Responses, Runs]:
    """Starts the stored responses, and those in the background; `stack` closes both."""
    responses = Responses(store, settings.responses)
    responses.start()
    stack.push_async_callback(responses.close)
    runs = Runs(responses, settings.responses)
    stack.push_async_callback(runs.close)
    return responses, runs


def _metrics_routes(
    settings: Settings, authenticator: Authenticator, telemetry: Telemetry
) -> list[Route]:
    """Returns the routes of metrics; none if metrics have a port of their own."""
    if settings.metrics.port is not None:
        return []
    return metrics_routes(authenticator, telemetry, partial(triton_metrics, settings.data_dir))


async def _start_triton(
    settings: Settings, catalogue: Catalogue, stack: AsyncExitStack
) -> tuple[Placements, Deployments]:
    """Starts the connections to Tritons, and the watch over their models; `stack` closes both."""
    triton = settings.triton
    placements = open_placements(settings, catalogue)
    stack.push_async_callback(placements.close)
    deployments = Deployments(
        catalogue,
        triton.repository,
        placements,
        interval_s=triton.probe_interval_s,
        probe_timeout_s=triton.probe_timeout_s,
        progress_file=triton.progress_file,
        faults_file=faults_file(settings.data_dir),
    )
    await deployments.start()
    stack.push_async_callback(deployments.close)
    return placements, deployments


async def _start_quota(settings: Settings, stack: AsyncExitStack) -> Limiter:
    """Starts the limits, with their own connection to the store; `stack` closes both."""
    database = Database(settings)
    stack.push_async_callback(database.close)
    journal = TokenJournal(settings.data_dir / "quota", database)
    counters = _counters(settings, journal)
    await counters.start()
    stack.push_async_callback(counters.close)
    return Limiter(counters, most_remembered=settings.store.key_cache_keys)


def _counters(settings: Settings, journal: TokenJournal) -> MemoryCounters | SharedCounters:
    """Creates counters in this process, or in Redis if it is set."""
    if settings.redis.url is None:
        return MemoryCounters(journal)
    # Imported where it is used: the client costs 14 MB.
    from orchestrator.quota.redis_store import RedisStore
    from orchestrator.quota.shared import SharedCounters

    return SharedCounters(RedisStore(settings.redis), journal, settings)
