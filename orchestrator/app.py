"""The composition root: every object is built here, once, in order."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI

from orchestrator.audit import AuditTrail
from orchestrator.auth import Authenticator
from orchestrator.backends.local import LocalBackend
from orchestrator.backends.placement import Placements, open_placements
from orchestrator.catalogue import Catalogue, load_catalogue
from orchestrator.deployments import Deployments
from orchestrator.gateway import Gateway
from orchestrator.gauges import observe
from orchestrator.health import (
    Readiness,
    books_look,
    limits_look,
    policy_look,
    problems_look,
    store_look,
    triton_looks,
)
from orchestrator.keys import Keys
from orchestrator.metering import StoredBooks
from orchestrator.policy.admin import PolicyAdmin
from orchestrator.policy.start import start_policies
from orchestrator.quota.limiter import Limiter
from orchestrator.quota.memory import MemoryCounters
from orchestrator.quota.redis_store import RedisStore
from orchestrator.quota.shared import SharedCounters
from orchestrator.quota.token_journal import TokenJournal
from orchestrator.responses import Responses
from orchestrator.responses.runs import Runs
from orchestrator.routing import Router
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.key_secret import load_pepper
from orchestrator.supervisor.state import faults_file
from orchestrator.supervisor.triton_metrics import triton_metrics
from orchestrator.telemetry.process import Telemetry
from orchestrator.triton.endpoint import connections
from orchestrator.wire import surfaces
from orchestrator.wire.audit import routes as audit_routes
from orchestrator.wire.denials import audited
from orchestrator.wire.http import Route
from orchestrator.wire.keys import routes as key_routes
from orchestrator.wire.metrics import routes as metrics_routes
from orchestrator.wire.openai_responses import routes as response_routes
from orchestrator.wire.policies import routes as policy_routes
from orchestrator.wire.usage import routes as usage_routes


def create_app(settings: Settings, worker: int = 0) -> FastAPI:
    """The application. `settings.triton` must say where Triton listens, whoever started it.

    `worker` is the number of this process among those of the same settings.

    What needs the running loop (a gRPC channel belongs to the one it was made in) is built when
    the application starts, and closed in reverse order when it stops.
    Raises: CatalogueError, SettingsError. Its start raises: SettingsError, StoreError.
    """
    catalogue = load_catalogue(settings.catalogue)
    connections(catalogue, settings)
    trail = AuditTrail(settings)
    telemetry = Telemetry(settings, worker)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await telemetry.start()
            stack.push_async_callback(telemetry.close)
            authenticator = Authenticator(settings)
            await authenticator.start()
            stack.push_async_callback(authenticator.close)
            trail.start()
            stack.push_async_callback(trail.close)
            store = Database(settings)
            stack.push_async_callback(store.close)
            policies = start_policies(settings, store)
            stack.push_async_callback(policies.close)
            books = StoredBooks(settings, store)
            books.start()
            stack.push_async_callback(books.close)
            placements, deployments = await _start_triton(settings, catalogue, stack)
            limiter = await _start_quota(settings, stack)
            local = LocalBackend(
                placements, first_token_timeout_s=settings.triton.first_token_timeout_s
            )
            gateway = Gateway(deployments, policies, Router(local), limiter, books, telemetry)
            stack.push_async_callback(gateway.close)
            looks = {
                "store": store_look(store, authenticator),
                "policy": policy_look(policies),
                "limits": limits_look(limiter),
                "books": books_look(books),
                "audit": problems_look("audit", trail.problems),
                **triton_looks(placements),
            }
            readiness = Readiness(looks, deployments)
            stack.push_async_callback(readiness.close)
            admin = PolicyAdmin(store, policies, modules=settings.policy.engine == "embedded")
            keys = Keys(store, load_pepper(settings), authenticator)
            responses, runs = _start_responses(settings, store, stack)
            observe(
                telemetry.metrics.registry,
                deployments=deployments,
                engines=placements,
                data_dir=settings.data_dir,
                problems=(authenticator.problems, books.problems, trail.problems),
                caches={"keys": authenticator.tally, "decisions": policies.tally},
            )
            surfaces.mount(
                app,
                authenticator=authenticator,
                gateway=gateway,
                readiness=readiness,
                realtime=settings.realtime,
                drain_s=settings.server.drain_s,
                metrics=_metrics_routes(settings, authenticator, telemetry),
                management={
                    "responses": response_routes(authenticator, gateway, responses, runs),
                    "keys": key_routes(authenticator, keys),
                    "policies": policy_routes(authenticator, admin, gateway.explainer()),
                    "usage": usage_routes(authenticator, books),
                    "audit": audit_routes(authenticator, trail),
                },
            )
            # What is there now stays; walking through it at every collection cost a third of the
            # time of a request.
            gc.collect()
            gc.freeze()
            yield

    return surfaces.new_app(
        lifespan,
        server=settings.server,
        hosts=settings.hosts,
        on_error=audited(trail),
        telemetry=telemetry,
    )


def _start_responses(
    settings: Settings, store: Database, stack: AsyncExitStack
) -> tuple[Responses, Runs]:
    """The stored responses, and those that run in the background; `stack` closes both."""
    responses = Responses(store, settings.responses)
    responses.start()
    stack.push_async_callback(responses.close)
    runs = Runs(responses, settings.responses)
    stack.push_async_callback(runs.close)
    return responses, runs


def _metrics_routes(
    settings: Settings, authenticator: Authenticator, telemetry: Telemetry
) -> list[Route]:
    """None where metrics have a port of their own."""
    if settings.metrics.port is not None:
        return []
    return metrics_routes(authenticator, telemetry, partial(triton_metrics, settings.data_dir))


async def _start_triton(
    settings: Settings, catalogue: Catalogue, stack: AsyncExitStack
) -> tuple[Placements, Deployments]:
    """The connections to Tritons, and the watch over their models; `stack` closes both."""
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
    """The limits, with a connection to the store of their own; `stack` closes both."""
    database = Database(settings)
    stack.push_async_callback(database.close)
    journal = TokenJournal(settings.data_dir / "quota", database)
    counters: MemoryCounters | SharedCounters
    if settings.redis.url is None:
        counters = MemoryCounters(journal)
    else:
        counters = SharedCounters(RedisStore(settings.redis), journal, settings)
    await counters.start()
    stack.push_async_callback(counters.close)
    return Limiter(counters)
