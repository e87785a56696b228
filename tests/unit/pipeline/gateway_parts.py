"""A gateway around a scripted backend, a quota and books that write down what they are told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from orchestrator.backends.protocol import (
    NO_LIMITS,
    Permit,
    Prepared,
    PreparedEmbedding,
    ServedModel,
)
from orchestrator.backends.triton.placement import single
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
    EmbeddingRequest,
    GenerationRequest,
    Prompt,
    ReasoningEffort,
    SamplingParams,
    TextPrompt,
)
from orchestrator.keys.principal import Principal
from orchestrator.models.hosted import Deployments
from orchestrator.pipeline.gateway import Gateway
from orchestrator.pipeline.routing import Router
from orchestrator.policy import AllowAll, Decision, PolicyInput
from orchestrator.quota import Admission, Caller, Outlook
from orchestrator.rendering import Renderer
from orchestrator.triton.client import TritonClient, TritonEndpoint
from tests.scripted_run import ScriptedRun

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
class ScriptedBackend:
    """Gives the events of `script`, then raises `error` if there is one."""

    script: tuple[GenerationEvent, ...] = EVENTS
    error: Exception | None = None
    refusal: Exception | None = None
    produced: Usage = field(default_factory=lambda: Usage(3, 2))
    so_far: Usage | None = None
    answered: int | None = None
    dropped: int = 0
    closed: int = 0
    embedded: tuple[int, ...] = ()
    name: str = "local"
    owners: list[str] = field(default_factory=list)
    sharing: list[tuple[str, ...]] = field(default_factory=list)

    async def prepare(
        self,
        served: ServedModel,
        request: GenerationRequest,
        owner: str = "",
        sharing: tuple[str, ...] = (),
        permit: Permit = NO_LIMITS,
    ) -> Prepared:
        permit.begin()
        self.owners.append(owner)
        self.sharing.append(sharing)
        if self.refusal is not None:
            raise self.refusal
        return Prepared(served, request, (1, 2, 3), 5)

    def generate(self, prepared: Prepared, request_id: str) -> ScriptedRun:
        return ScriptedRun(
            self.script,
            error=self.error,
            produced=self.produced,
            so_far=self.so_far,
            answered=self.answered,
            dropped=self.dropped,
            on_stop=self._close,
        )

    def _close(self) -> None:
        self.closed += 1

    async def tokens(
        self,
        served: ServedModel,
        prompt: Prompt,
        reasoning: ReasoningEffort | None,
        owner: str,
        permit: Permit,
    ) -> Sequence[int]:
        permit.begin()
        return served.renderer.render(prompt, reasoning, owner)

    async def text(
        self, served: ServedModel, token_ids: Sequence[int], owner: str, permit: Permit
    ) -> str:
        permit.begin()
        served.renderer.check_ids(token_ids, param="tokens")
        return served.renderer.decode(token_ids)

    async def prepare_embedding(
        self,
        served: ServedModel,
        request: EmbeddingRequest,
        owner: str = "",
        permit: Permit = NO_LIMITS,
    ) -> PreparedEmbedding:
        permit.begin()
        return PreparedEmbedding(served, ((1, 2),))

    async def embed(
        self,
        prepared: PreparedEmbedding,
        request_id: str,
        on_answer: Callable[[int], None] | None = None,
    ) -> list[memoryview]:
        assert on_answer is not None
        for tokens in self.embedded:
            on_answer(tokens)
        if self.error is not None:
            raise self.error
        return [memoryview(b"\0\0\0\0")]


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


def gateway(
    deployments: Deployments,
    backend: ScriptedBackend | None = None,
    ledger: Ledger | None = None,
    policy: AllowAll | DenyAll | ShareAll | None = None,
) -> Gateway:
    router, books = Router(backend or ScriptedBackend()), ledger or Ledger()
    return Gateway(deployments, policy or AllowAll(), router, books, books)
