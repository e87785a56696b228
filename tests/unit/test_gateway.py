"""The pipeline: what is checked in which order, what is settled, what is closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from orchestrator.auth import Principal
from orchestrator.backends import NO_LIMITS, Permit, Prepared, PreparedEmbedding, ServedModel
from orchestrator.backends.placement import single
from orchestrator.catalogue import Catalogue, EngineRecipe, Model
from orchestrator.core.context import CallContext
from orchestrator.core.errors import (
    ContextLengthExceeded,
    ModelNotFound,
    ModelUnavailable,
    PolicyDenied,
    StoreUnavailable,
    UpstreamFailed,
)
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartFinished,
    Usage,
    fold,
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
from orchestrator.deployments import Deployments
from orchestrator.gateway import Gateway
from orchestrator.manifest import Manifest
from orchestrator.metering import UsageRecord
from orchestrator.policy import AllowAll, Decision, PolicyInput
from orchestrator.quota import Admission, Caller, Outlook
from orchestrator.rendering import Renderer
from orchestrator.routing import Router
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


async def test_a_good_request_gives_all_events_and_books_what_the_engine_produced(
    deployments: Deployments,
) -> None:
    ledger, backend = Ledger(), ScriptedBackend()
    served = gateway(deployments, backend, ledger)
    generation = await served.generate(ANYBODY, ASKED, CallContext("req_1"))
    completion = await fold(generation)
    await generation.aclose()
    await served.close()
    assert completion.choices[0].parts == [TextPart("Hello")]
    assert (ledger.reserved, ledger.settled, backend.closed) == ([8], [5], 1)
    (entry,) = ledger.entries
    assert (entry.outcome, entry.completion_tokens, entry.request_id) == ("ok", 2, "req_1")
    assert entry.first_token_s is not None
    assert generation.headers == {
        "x-op-route": "local",
        "x-op-model": "acme/chat",
        "x-ratelimit-limit-requests": "60",
    }


async def test_what_is_remembered_of_a_prompt_is_for_its_tenant(deployments: Deployments) -> None:
    backend = ScriptedBackend()
    served = gateway(deployments, backend)
    await fold(await served.generate(ANYBODY, ASKED, CallContext("req_1")))
    await served.close()
    assert (backend.owners, backend.sharing) == (["ten_1"], [()])
    await served.explainer().explain(ANYBODY, None, ASKED, client_ip=None)
    assert backend.owners == ["ten_1", "ten_1"]


async def test_tenants_of_the_policy_share_what_the_engine_caches(
    deployments: Deployments,
) -> None:
    backend, policy = ScriptedBackend(), ShareAll()
    served = gateway(deployments, backend, policy=policy)
    await fold(await served.generate(ANYBODY, ASKED, CallContext("req_1")))
    await served.close()
    assert (backend.owners, backend.sharing) == (["ten_1"], [("ten_2",)])


async def test_closing_early_ends_the_backend_and_books_once(deployments: Deployments) -> None:
    ledger, backend = Ledger(), ScriptedBackend()
    served = gateway(deployments, backend, ledger)
    generation = await served.generate(ANYBODY, ASKED, CallContext("req_1"))
    await generation.aclose()
    await generation.aclose()
    await served.close()
    assert backend.closed == 1
    assert ledger.settled == [5]
    assert [entry.outcome for entry in ledger.entries] == ["cancelled"]


async def test_a_failure_before_the_first_event_is_raised_and_charges_nothing(
    deployments: Deployments,
) -> None:
    ledger = Ledger()
    backend = ScriptedBackend(script=(), error=ModelUnavailable("gone"), produced=Usage(3, 0))
    served = gateway(deployments, backend, ledger)
    with pytest.raises(ModelUnavailable):
        await served.generate(ANYBODY, ASKED, CallContext("req_1"))
    await served.close()
    assert (ledger.settled, backend.closed) == ([0], 1)
    assert [entry.outcome for entry in ledger.entries] == ["failed"]


async def test_a_backend_without_any_event_is_an_upstream_failure(
    deployments: Deployments,
) -> None:
    backend = ScriptedBackend(script=())
    with pytest.raises(UpstreamFailed):
        await gateway(deployments, backend).generate(ANYBODY, ASKED, CallContext("req_1"))


async def test_a_failure_after_the_first_event_reaches_the_reader_and_is_charged(
    deployments: Deployments,
) -> None:
    ledger = Ledger()
    backend = ScriptedBackend(script=EVENTS[:2], error=ModelUnavailable("gone"), answered=1)
    served = gateway(deployments, backend, ledger)
    generation = await served.generate(ANYBODY, ASKED, CallContext("req_1"))
    with pytest.raises(ModelUnavailable):
        await fold(generation)
    assert generation.usage == Usage(3, 1)
    await generation.aclose()
    await served.close()
    # The prompt and the one token that was sent; the engine had made two.
    assert (ledger.settled, charged(ledger)) == ([4], [("failed", 3, 1, 1)])


async def test_a_failure_of_an_answer_that_is_sent_whole_charges_nothing(
    deployments: Deployments,
) -> None:
    ledger = Ledger()
    backend = ScriptedBackend(script=EVENTS[:2], error=ModelUnavailable("gone"), answered=2)
    served = gateway(deployments, backend, ledger)
    generation = await served.generate(ANYBODY, replace(ASKED, whole=True), CallContext("req_1"))
    with pytest.raises(ModelUnavailable):
        await fold(generation)
    # What is known of it if this process is killed now.
    (promised,) = ledger.promised
    assert (promised.prompt_tokens, promised.completion_tokens, promised.wasted_tokens) == (0, 0, 5)
    await generation.aclose()
    await served.close()
    assert (ledger.settled, charged(ledger)) == ([0], [("failed", 0, 0, 5)])


@pytest.mark.parametrize("whole", [True, False])
async def test_an_answer_that_cannot_be_written_down_is_charged_as_far_as_it_was_sent(
    deployments: Deployments, whole: bool
) -> None:
    ledger = Ledger()
    served = gateway(deployments, ScriptedBackend(answered=2), ledger)
    generation = await served.generate(ANYBODY, replace(ASKED, whole=whole), CallContext("req_1"))
    await fold(generation)
    assert [entry.outcome for entry in ledger.promised] == ["ok"]
    await generation.aclose(RuntimeError("cannot be written down"))
    await served.close()
    assert [entry.outcome for entry in ledger.promised] == ["ok", "failed"]
    assert charged(ledger) == [("failed", 0, 0, 5) if whole else ("failed", 3, 2, 0)]


async def test_tokens_behind_the_end_are_waste_however_it_ends(deployments: Deployments) -> None:
    ledger = Ledger()
    served = gateway(deployments, ScriptedBackend(dropped=4), ledger)
    for leaves in (False, True):
        generation = await served.generate(ANYBODY, ASKED, CallContext("req_1"))
        if not leaves:
            await fold(generation)
        await generation.aclose()
    await served.close()
    assert ledger.settled == [5, 5]
    assert charged(ledger) == [("ok", 3, 2, 4), ("cancelled", 3, 2, 4)]


async def test_of_a_batch_that_fails_nothing_is_charged(deployments: Deployments) -> None:
    ledger = Ledger()
    backend = ScriptedBackend(script=(), error=ModelUnavailable("gone"))
    served = gateway(deployments, backend, ledger)
    with pytest.raises(ModelUnavailable):
        await served.generate_all(ANYBODY, [ASKED] * 3, CallContext("req_1"))
    await served.close()
    assert (ledger.reserved, ledger.settled, backend.closed) == ([24], [0, 0, 0], 3)
    assert charged(ledger) == [("failed", 0, 0, 5)] * 3


async def test_of_a_batch_that_does_not_fit_nothing_is_reserved(deployments: Deployments) -> None:
    ledger, backend = Ledger(), ScriptedBackend(refusal=ContextLengthExceeded("too long"))
    served = gateway(deployments, backend, ledger)
    with pytest.raises(ContextLengthExceeded):
        await served.generate_all(ANYBODY, [ASKED] * 3, CallContext("req_1"))
    assert (ledger.reserved, ledger.cancelled, ledger.entries) == ([], 1, [])


async def test_shorter_prompts_are_tried_by_the_same_admission(deployments: Deployments) -> None:
    ledger, backend = Ledger(), ScriptedBackend(refusal=ContextLengthExceeded("too long"))
    served = gateway(deployments, backend, ledger)
    left = [ASKED, ASKED]

    def shorten() -> GenerationRequest | None:
        if left:
            return left.pop()
        backend.refusal = None
        return ASKED

    generation = await served.generate(ANYBODY, ASKED, CallContext("req_1"), shorten)
    await generation.aclose()
    await served.close()
    assert (len(backend.owners), ledger.admitted, ledger.cancelled) == (4, [1], 0)


async def test_a_request_that_does_not_fit_costs_nothing(deployments: Deployments) -> None:
    ledger, backend = Ledger(), ScriptedBackend(refusal=ContextLengthExceeded("too long"))
    with pytest.raises(ContextLengthExceeded):
        await gateway(deployments, backend, ledger).generate(ANYBODY, ASKED, CallContext("req_1"))
    assert (ledger.reserved, ledger.cancelled, ledger.entries) == ([], 1, [])


async def test_unknown_comes_before_denied_and_denied_before_not_loaded(
    deployments: Deployments,
) -> None:
    narrow = replace(ANYBODY, allowed_models=("acme/embed",))
    for deployment in deployments.all:
        deployment.placement.replicas[0].eject()
    served = gateway(deployments)
    with pytest.raises(ModelNotFound, match="`acme/nothing` does not exist"):
        await served.generate(narrow, replace(ASKED, model="acme/nothing"), CallContext("r"))
    with pytest.raises(PolicyDenied) as denied:
        await served.generate(narrow, ASKED, CallContext("r"))
    assert str(denied.value) == "Key 'quickstart' lacks scope for model 'acme/chat'."
    assert denied.value.detail_reason == "model_not_allowed"
    with pytest.raises(ModelUnavailable) as unavailable:
        await served.generate(ANYBODY, ASKED, CallContext("r"))
    assert unavailable.value.retry_after_s


async def test_the_policy_is_asked_before_the_engine(deployments: Deployments) -> None:
    backend, ledger = ScriptedBackend(), Ledger()
    with pytest.raises(PolicyDenied, match="Closed for today"):
        await gateway(deployments, backend, ledger, DenyAll()).generate(
            ANYBODY, ASKED, CallContext("r")
        )
    assert (backend.closed, ledger.reserved) == (0, [])


async def test_a_model_is_not_asked_for_what_it_cannot_do(deployments: Deployments) -> None:
    with pytest.raises(ModelNotFound, match="made to embed text"):
        await gateway(deployments).generate(
            ANYBODY, replace(ASKED, model="acme/embed"), CallContext("r")
        )
    with pytest.raises(ModelNotFound, match="made to generate text"):
        await gateway(deployments).embed(
            ANYBODY, EmbeddingRequest("acme/chat", ("x",)), CallContext("r")
        )


async def test_embeddings_that_fail_cost_nothing_and_their_work_is_waste(
    deployments: Deployments,
) -> None:
    ledger, asked = Ledger(), EmbeddingRequest("acme/embed", ("x",))
    backend = ScriptedBackend(embedded=(2, 3), error=ModelUnavailable("gone"))
    with pytest.raises(ModelUnavailable):
        await gateway(deployments, backend, ledger).embed(ANYBODY, asked, CallContext("r"))
    assert (ledger.settled, charged(ledger)) == ([0], [("failed", 0, 0, 5)])


async def test_embeddings_settle_their_prompt(deployments: Deployments) -> None:
    ledger = Ledger()
    answer = await gateway(deployments, ledger=ledger).embed(
        ANYBODY, EmbeddingRequest("acme/embed", ("x",)), CallContext("r")
    )
    assert (answer.prompt_tokens, ledger.reserved, ledger.settled) == (2, [2], [2])


async def test_a_key_sees_the_models_it_may_use_by_every_name(deployments: Deployments) -> None:
    served = gateway(deployments)
    assert [entry.id for entry in served.models(ANYBODY)] == [
        "acme/chat", "chat-alias", "acme/embed",
    ]  # fmt: skip
    narrow = replace(ANYBODY, allowed_models=("chat-alias",))
    assert [entry.id for entry in served.models(narrow)] == ["acme/chat", "chat-alias"]
    assert served.model(narrow, "acme/chat").task == "generate"
    with pytest.raises(ModelNotFound):
        served.model(narrow, "acme/embed")


async def test_the_books_know_the_end_before_the_reader_does(deployments: Deployments) -> None:
    ledger, backend = Ledger(), ScriptedBackend(so_far=Usage(3, 1))
    served = gateway(deployments, backend, ledger)
    generation = await served.generate(ANYBODY, ASKED, CallContext("req_1"))
    async for event in generation:
        last = isinstance(event, GenerationFinished)
        assert [entry.completion_tokens for entry in ledger.promised] == ([1] if last else [])
    await generation.aclose()
    await served.close()
    (entry,) = ledger.entries
    assert (entry.outcome, entry.completion_tokens) == ("ok", 2)
    assert {promised.record_id for promised in ledger.promised} == {entry.record_id}


async def test_the_books_know_of_a_failure_before_the_reader_does(
    deployments: Deployments,
) -> None:
    ledger = Ledger()
    backend = ScriptedBackend(script=EVENTS[:2], error=ModelUnavailable("gone"))
    generation = await gateway(deployments, backend, ledger).generate(
        ANYBODY, ASKED, CallContext("req_1")
    )
    with pytest.raises(ModelUnavailable):
        await fold(generation)
    assert [entry.outcome for entry in ledger.promised] == ["failed"]
    await generation.aclose()


async def test_what_cannot_be_booked_is_not_begun(deployments: Deployments) -> None:
    ledger, backend = Ledger(full=True), ScriptedBackend()
    served = gateway(deployments, backend, ledger)
    with pytest.raises(StoreUnavailable):
        await served.generate(ANYBODY, ASKED, CallContext("req_1"))
    with pytest.raises(StoreUnavailable):
        await served.embed(ANYBODY, EmbeddingRequest("acme/embed", ("x",)), CallContext("r"))
    assert (backend.closed, ledger.reserved, ledger.entries) == (0, [], [])
