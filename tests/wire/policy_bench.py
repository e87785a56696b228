"""The real edge, keys, policies, limits and tokenizer; only the engine is scripted."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from pydantic import SecretStr
from tokenizers import Tokenizer, models, pre_tokenizers

from orchestrator.backends.protocol import EmbeddingRun, GenerationRun
from orchestrator.backends.scripted import ScriptedBackend
from orchestrator.backends.triton.backend import TritonBackend
from orchestrator.backends.triton.placement import single
from orchestrator.backends.triton.prefix_salts import PrefixSalts
from orchestrator.backends.triton.served import PreparedEmbedding, PreparedGeneration, ServedModel
from orchestrator.books.usage_records import NoBooks
from orchestrator.contract.catalogue import Catalogue
from orchestrator.contract.manifest import Manifest
from orchestrator.core.request import SamplingParams
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper
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
from orchestrator.rendering import Renderer
from orchestrator.settings import PolicySettings, SecuritySettings, Settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from orchestrator.triton.client import TritonClient, TritonEndpoint
from orchestrator.wire import surfaces
from orchestrator.wire.management.explain import routes as explain_routes
from orchestrator.wire.management.keys import routes as key_routes
from orchestrator.wire.management.policies import routes as policy_routes
from tests.wire.harness import MODELS, answer

ADMIN = "op_live_aaaa_" + "0123456789abcdef" * 2
OTHER_ADMIN = "op_live_bbbb_" + "0123456789abcdef" * 2
PLAIN = "op_live_cccc_" + "0123456789abcdef" * 2
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


class Backend(TritonBackend):
    """Renders, counts and checks like the real one; what it generates is scripted."""

    def __init__(self, deployments: Deployments, client: TritonClient) -> None:
        super().__init__(
            deployments.served,
            single(client),
            PrefixSalts(b"of the tests"),
            first_token_timeout_s=1,
        )
        self.script = ScriptedBackend(answer("Hello", " there"))

    def begin(self, prepared: PreparedGeneration, request_id: str) -> GenerationRun:
        return self.script.generate(request_id)

    def begin_embedding(self, prepared: PreparedEmbedding, request_id: str) -> EmbeddingRun:
        return self.script.embed(len(prepared.rows), prepared.prompt_tokens, request_id)


@dataclass
class PolicyBench:
    """One appliance without an engine. `ADMIN` and `PLAIN` are of one tenant, `OTHER_ADMIN` not."""

    settings: Settings
    database: Database
    engine: RegoPolicies
    gateway: Gateway
    client: httpx2.AsyncClient

    async def call(
        self, method: str, path: str, body: Any = None, key: str = ADMIN
    ) -> httpx2.Response:
        headers = {"authorization": f"Bearer {key}"}
        return await self.client.request(method, path, json=body, headers=headers)

    async def chat(self, key: str = PLAIN, **members: Any) -> httpx2.Response:
        """One chat request."""
        messages = [{"role": "user", "content": "hello"}]
        body = {"model": "acme/chat", "messages": messages, "max_tokens": 5, **members}
        return await self.call("POST", "/v1/chat/completions", body, key)

    async def new_key(self, **members: Any) -> tuple[str, str]:
        """Id and secret of a new key of the first tenant."""
        body = {"label": "made", "policy_id": "pol_default", **members}
        reply = await self.call("POST", "/v1/keys", body)
        assert reply.status_code == 201, reply.text
        made = reply.json()
        return made["id"], made["secret"]

    async def new_policy(self, **members: Any) -> str:
        """Id of a new policy of the first tenant."""
        reply = await self.call("POST", "/v1/policies", {"name": "made", **members})
        assert reply.status_code == 201, reply.text
        made: str = reply.json()["id"]
        return made


@asynccontextmanager
async def policy_bench(
    folder: Path,
    policy: PolicySettings | None = None,
    *,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[PolicyBench]:
    """A bench whose store lies in `folder`; `now` is the clock of policies and limits."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240  # before anything runs
    settings = Settings(
        data_dir=folder / "data",
        security=SecuritySettings(pepper=SecretStr("a pepper for tests only")),
        policy=policy or PolicySettings(),
    )
    await migrate(settings)
    async with AsyncExitStack() as stack:
        database = Database(settings)
        stack.push_async_callback(database.close)
        await _add_keys(settings, database)
        authenticator = Authenticator(settings)
        await authenticator.start()
        stack.push_async_callback(authenticator.close)
        # Nothing listens there: readiness is set by hand and no watch is started.
        triton = TritonClient(TritonEndpoint("unix:/nonexistent"))
        stack.push_async_callback(triton.close)
        evaluators = new_evaluators(settings)
        stack.push_async_callback(evaluators.close)
        engine = start_policies(settings, database, evaluators)
        engine._now = now
        stack.push_async_callback(engine.close)
        journal = TokenJournal(settings.data_dir / "quota", database)
        counters = MemoryCounters(journal, now=now)
        await counters.start()
        stack.push_async_callback(counters.close)
        deployments = _deployments(folder, triton)
        router = Router(Backend(deployments, triton))
        gate, limiter, books = (
            Gate(deployments, engine, router),
            Limiter(counters, now=now),
            NoBooks(),
        )
        gateway = Gateway(gate, deployments, limiter, books)
        stack.push_async_callback(gateway.close)
        app = surfaces.new_app(_no_lifespan, server=settings.server, hosts=settings.hosts)
        candidates = new_candidates(settings, evaluators)
        modules = settings.policy.engine == "embedded"
        admin = PolicyAdmin(database, candidates, engine, modules=modules)
        surfaces.mount(
            app,
            authenticator=authenticator,
            gateway=gateway,
            management={
                "keys": key_routes(
                    authenticator, Keys(database, load_pepper(settings), authenticator)
                ),
                "policies": [
                    *policy_routes(authenticator, admin),
                    *explain_routes(authenticator, Explainer(gate, limiter, books)),
                ],
            },
        )
        transport = httpx2.ASGITransport(
            app=app, raise_app_exceptions=False, client=("203.0.113.9", 1)
        )
        client = await stack.enter_async_context(
            httpx2.AsyncClient(transport=transport, base_url="http://appliance.example.com")
        )
        yield PolicyBench(settings, database, engine, gateway, client)


@asynccontextmanager
async def _no_lifespan(app: Any) -> AsyncIterator[None]:
    yield


async def _add_keys(settings: Settings, database: Database) -> None:
    pepper = load_pepper(settings)
    async with database.unit_of_work() as session:
        for name, secrets in (
            ("acme", ((ADMIN, True), (PLAIN, False))),
            ("globex", ((OTHER_ADMIN, True),)),
        ):
            tenant = await tenants.ensure(session, name, 1)
            for secret, admin in secrets:
                label = "admin" if admin else "quickstart"
                new = NewKey(
                    label=label, tenant_id=tenant.id, scope="admin" if admin else "inference"
                )
                await key_queries.create(session, new, secret, pepper, 1)


def _deployments(folder: Path, triton: TritonClient) -> Deployments:
    vocabulary = Tokenizer(models.WordLevel({"hello": 0, "you": 1}, unk_token="hello"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    vocabulary.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
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
