"""The real edge, gateway and authenticator around a scripted backend, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from tokenizers import Tokenizer, models

from orchestrator.backends.protocol import Permit
from orchestrator.backends.scripted import ScriptedBackend
from orchestrator.backends.triton.placement import single
from orchestrator.backends.triton.served import ServedModel
from orchestrator.books.usage_records import NoBooks
from orchestrator.contract.catalogue import Catalogue, EngineRecipe, Model
from orchestrator.contract.manifest import Manifest
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartStarted,
    Usage,
)
from orchestrator.core.messages import TextPart
from orchestrator.core.request import (
    Prompt,
    ReasoningEffort,
    SamplingParams,
)
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper
from orchestrator.models.hosted import Deployments
from orchestrator.pipeline.gate import Gate
from orchestrator.pipeline.gateway import Gateway
from orchestrator.pipeline.routing import Router
from orchestrator.policy import AllowAll
from orchestrator.quota import Unlimited
from orchestrator.rendering import Renderer
from orchestrator.responses.runs import Runs
from orchestrator.responses.service import Responses
from orchestrator.settings import (
    HostsSettings,
    RealtimeSettings,
    ResponsesSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
)
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from orchestrator.telemetry.process import Telemetry
from orchestrator.triton.client import TritonClient, TritonEndpoint
from orchestrator.wire import surfaces
from orchestrator.wire.openai.responses.routes import routes as response_routes

KEY = "op_live_26f2_" + "0123456789abcdef" * 2
NARROW_KEY = "op_live_26f3_" + "0123456789abcdef" * 2
STRANGERS_KEY = "op_live_26f4_" + "0123456789abcdef" * 2
MODELS = (
    Model(
        "acme/chat", "chat", "generate", 64, EngineRecipe("-"), created=7, aliases=("gemma4:26b",)
    ),
    Model("acme/embed", "embed", "embed", 64, EngineRecipe("-"), created=7),
    Model("acme/absent", "absent", "generate", 64, EngineRecipe("-"), created=7),
)


def answer(*texts: str, model: str = "acme/chat") -> tuple[GenerationEvent, ...]:
    """The events of one choice of text, one delta for each of `texts`."""
    return (
        GenerationStarted("chatcmpl-1", model, 1_700_000_000, 9),
        PartStarted(0, "text"),
        *(PartDelta(0, "text", text) for text in texts),
        PartFinished(0, TextPart("".join(texts))),
        ChoiceFinished(0, "stop"),
        GenerationFinished(Usage(9, len(texts))),
    )


@dataclass
class RenderingBackend(ScriptedBackend):
    """A scripted one that has the tokenizers of what is served."""

    served: Callable[[Model], ServedModel] = field(kw_only=True)

    def __post_init__(self) -> None:
        self.check_model = self.served
        self.events = self.events or answer("Hello", " there")

    async def tokens(
        self,
        model: Model,
        prompt: Prompt,
        reasoning: ReasoningEffort | None,
        owner: str,
        permit: Permit,
    ) -> Sequence[int]:
        permit.begin()
        return self.served(model).renderer.render(prompt, reasoning, owner)

    async def text(self, model: Model, token_ids: Sequence[int], owner: str, permit: Permit) -> str:
        permit.begin()
        renderer = self.served(model).renderer
        renderer.check_ids(token_ids, param="tokens")
        return renderer.decode(token_ids)

    def token_texts(self, model: Model, token_ids: Sequence[int]) -> Sequence[str]:
        raw = self.served(model).renderer.token_bytes
        return [raw(one).decode("utf-8", "backslashreplace") for one in token_ids]


@dataclass
class Bench:
    """One application in this process."""

    app: FastAPI
    backend: ScriptedBackend
    deployments: Deployments
    client: httpx2.AsyncClient
    settings: Settings
    gateway: Gateway

    async def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        """A request with the good key."""
        headers = {"authorization": f"Bearer {KEY}", **options.pop("headers", {})}
        return await self.client.post(path, json=body, headers=headers, **options)

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        """A request with the good key."""
        return await self.client.get(path, headers={"authorization": f"Bearer {KEY}", **headers})


@asynccontextmanager
async def bench(
    folder: Path,
    *,
    server: ServerSettings | None = None,
    hosts: HostsSettings | None = None,
    responses: ResponsesSettings | None = None,
    realtime: RealtimeSettings | None = None,
    telemetry: Telemetry | None = None,
) -> AsyncIterator[Bench]:
    """A bench whose store lies in `folder`. `KEY` may do everything, `NARROW_KEY` embed only.

    `STRANGERS_KEY` is of another tenant.
    """
    settings = Settings(
        data_dir=folder / "data",
        security=SecuritySettings(pepper=SecretStr("a pepper for tests only")),
        server=server or ServerSettings(max_body_bytes=4096),
        hosts=hosts or HostsSettings(),
        responses=responses or ResponsesSettings(),
        realtime=realtime or RealtimeSettings(),
    )
    await migrate(settings)
    await _add_keys(settings)
    async with AsyncExitStack() as stack:
        authenticator = Authenticator(settings)
        await authenticator.start()
        stack.push_async_callback(authenticator.close)
        # Nothing listens there: readiness is set by hand and no watch is started.
        triton = TritonClient(TritonEndpoint("unix:/nonexistent"))
        stack.push_async_callback(triton.close)
        deployments = _deployments(folder, triton)
        backend = RenderingBackend(served=deployments.served)
        gate = Gate(deployments, AllowAll(), Router(backend))
        gateway = Gateway(gate, deployments, Unlimited(), NoBooks(), telemetry)
        stack.push_async_callback(gateway.close)
        app = surfaces.new_app(
            _no_lifespan, server=settings.server, hosts=settings.hosts, telemetry=telemetry
        )
        stored, runs = _responses(settings, stack)
        told = response_routes(authenticator, gateway, stored, runs, [b"pepper of the tests"])
        surfaces.mount(
            app,
            authenticator=authenticator,
            gateway=gateway,
            management={"responses": told},
            realtime=settings.realtime,
            drain_s=settings.server.drain_s,
        )
        client = await stack.enter_async_context(
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app=app, raise_app_exceptions=False),
                base_url="http://appliance.example.com",
            )
        )
        yield Bench(app, backend, deployments, client, settings, gateway)


def _responses(settings: Settings, stack: AsyncExitStack) -> tuple[Responses, Runs]:
    database = Database(settings)
    stack.push_async_callback(database.close)
    stored = Responses(database, settings.responses)
    runs = Runs(stored, settings.responses)
    stack.push_async_callback(runs.close)
    return stored, runs


@asynccontextmanager
async def _no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


async def _add_keys(settings: Settings) -> None:
    pepper = load_pepper(settings)
    database = Database(settings)
    async with database.unit_of_work() as session:
        tenant = await tenants.ensure(session, "acme", 1)
        broad = NewKey(label="quickstart", tenant_id=tenant.id)
        await key_queries.create(session, broad, KEY, pepper, 1)
        narrow = NewKey(label="narrow", tenant_id=tenant.id, allowed_models=("acme/embed",))
        await key_queries.create(session, narrow, NARROW_KEY, pepper, 1)
        other = await tenants.ensure(session, "stranger", 1)
        strangers = NewKey(label="stranger", tenant_id=other.id)
        await key_queries.create(session, strangers, STRANGERS_KEY, pepper, 1)
    await database.close()


def _deployments(folder: Path, triton: TritonClient) -> Deployments:
    vocabulary = Tokenizer(models.WordLevel({"hello": 0}, unk_token="hello"))
    vocabulary.save(str(folder / "tokenizer.json"))
    made = Deployments(Catalogue(MODELS), folder, single(triton), interval_s=1)
    for deployment in made.all[:2]:
        manifest = Manifest(
            folder, deployment.model.id, deployment.model.task, "cpu",
            4, 64, 64, 16, 0, (), None, False, False, 2,
        )  # fmt: skip
        renderer = Renderer(folder, parser="plain")
        deployment.served = ServedModel(deployment.model, manifest, renderer, SamplingParams())
        deployment.placement.replicas[0].admit()
    return made


async def call(
    app: FastAPI,
    *,
    path: str = "/v1/chat/completions",
    body: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    receive: Callable[[], Any] | None = None,
    method: str = "POST",
    key: str = KEY,
    kind: str = "http",
    send: Callable[[Any], Awaitable[None]] | None = None,
) -> list[dict[str, Any]]:
    """The raw ASGI messages of one request; for what no client library can do."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_body() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def keep(message: Any) -> None:
        sent.append(dict(message))

    scope = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"authorization", f"Bearer {key}".encode()), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    await app(scope, receive or receive_body, send or keep)
    return sent


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Bench]:
    """The edge over a scripted backend."""
    async with bench(tmp_path) as made:
        yield made
