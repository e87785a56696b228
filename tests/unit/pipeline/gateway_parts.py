"""A gateway around a scripted backend, a quota and books that write down what they are told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from orchestrator.backends.scripted import ScriptedBackend
from orchestrator.backends.triton.placement import single
from orchestrator.backends.triton.served import ServedModel
from orchestrator.books.usage_records import UsageRecord
from orchestrator.contract.catalogue import Catalogue, EngineRecipe, Model
from orchestrator.contract.manifest import Manifest
from orchestrator.core.errors import (
    StoreUnavailable,
)
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartFinished,
    Usage,
)
from orchestrator.core.limits import Bucket
from orchestrator.core.messages import TextPart
from orchestrator.core.request import (
    GenerationRequest,
    SamplingParams,
    TextPrompt,
)
from orchestrator.keys.principal import Principal
from orchestrator.models.hosted import Deployments
from orchestrator.pipeline.gate import Gate
from orchestrator.pipeline.gateway import Gateway
from orchestrator.pipeline.routing import Router
from orchestrator.policy import AllowAll, Decision, PolicyInput
from orchestrator.quota import Admission, Caller, Outlook
from orchestrator.rendering import Renderer
from orchestrator.triton.client import TritonClient, TritonEndpoint

CHAT = Model("acme/chat", "chat", "generate", 64, EngineRecipe("-"), aliases=("chat-alias",))
EMBED = Model("acme/embed", "embed", "embed", 64, EngineRecipe("-"))
EVENTS: tuple[GenerationEvent, ...] = (
    GenerationStarted("chatcmpl-1", "acme/chat", 1, 3),
    PartFinished(0, TextPart("Hello")),
    ChoiceFinished(0, "stop"),
    GenerationFinished(Usage(3, 1)),
)
ASKED = GenerationRequest("acme/chat", TextPrompt("hello"))
ANYBODY = Principal("key_1", "quickstart", "ten_1", admin=False, allowed_models=("*",))


@dataclass
class Ledger:
    """A quota and books in one that refuse nobody, and write down what they are told."""

    reserved: list[int] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)
    cancelled: int = 0
    begun: int = 0
    entries: list[UsageRecord] = field(default_factory=list)
    promised: list[UsageRecord] = field(default_factory=list)
    full: bool = False

    async def admit(self, caller: Caller, bucket: Bucket, requests: int = 1) -> Admission:
        self.admitted.append(requests)
        return _Entry(self)

    async def outlook(self, caller: Caller, bucket: Bucket, tokens: int) -> Outlook:
        return Outlook(None, None)

    def check(self) -> None:
        if self.full:
            raise StoreUnavailable("full")

    def promise(self, entry: UsageRecord) -> None:
        self.promised.append(entry)

    def record(self, entry: UsageRecord) -> None:
        self.entries.append(entry)


@dataclass
class _Entry:
    ledger: Ledger

    @property
    def headers(self) -> Mapping[str, str]:
        return {"x-ratelimit-limit-requests": "60"}

    def check(self, tokens: int) -> None:
        del tokens

    def begin(self) -> None:
        self.ledger.begun += 1

    async def reserve(self, tokens: int) -> None:
        self.ledger.reserved.append(tokens)

    def split(self, tokens: Sequence[int]) -> list[Admission]:
        return [_Entry(self.ledger) for _ in tokens]

    async def settle(self, tokens: int) -> None:
        self.ledger.settled.append(tokens)

    async def cancel(self) -> None:
        self.ledger.cancelled += 1


def charged(ledger: Ledger) -> list[tuple[str, int, int, int]]:
    """How each request ended, and its tokens of prompt, of answer and wasted."""
    return [
        (one.outcome, one.prompt_tokens, one.completion_tokens, one.wasted_tokens)
        for one in ledger.entries
    ]


class ShareAll:
    """Allows all, and shares the prefix cache with another tenant."""

    async def decide(self, asked: PolicyInput) -> Decision:
        return Decision(allow=True, rule="allow_all", cache_tenants=("ten_2",))


class DenyAll:
    async def decide(self, asked: PolicyInput) -> Decision:
        return Decision(allow=False, rule="closed", reason="Closed for today.")


@pytest.fixture
async def deployments(tmp_path: Path) -> AsyncIterator[Deployments]:
    Tokenizer(models.WordLevel({"hello": 0}, unk_token="hello")).save(
        str(tmp_path / "tokenizer.json")
    )
    # Nothing listens there: these tests set readiness themselves and start no watch.
    client = TritonClient(TritonEndpoint("unix:/nonexistent"))
    made = Deployments(Catalogue((CHAT, EMBED)), tmp_path, single(client), interval_s=1)
    for deployment in made.all:
        manifest = Manifest(
            tmp_path, deployment.model.id, deployment.model.task, "cpu",
            4, 64, 64, 16, 0, (), None, False, False, 1,
        )  # fmt: skip
        renderer = Renderer(tmp_path, parser="plain")
        deployment.served = ServedModel(deployment.model, manifest, renderer, SamplingParams())
        deployment.placement.replicas[0].admit()
    yield made
    await client.close()


def scripted(deployments: Deployments, backend: ScriptedBackend | None) -> ScriptedBackend:
    """`backend`, or one that gives `EVENTS`; it answers for models that are served."""
    made = backend or ScriptedBackend(EVENTS)
    made.check_model = deployments.served
    return made


def gateway(
    deployments: Deployments,
    backend: ScriptedBackend | None = None,
    ledger: Ledger | None = None,
    policy: AllowAll | DenyAll | ShareAll | None = None,
) -> Gateway:
    router, books = Router(scripted(deployments, backend)), ledger or Ledger()
    gate = Gate(deployments, policy or AllowAll(), router)
    return Gateway(gate, deployments, books, books)
