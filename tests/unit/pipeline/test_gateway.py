"""The pipeline: what is checked in which order, what is settled, what is closed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.backends.scripted import ScriptedBackend
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
    GenerationFinished,
    Usage,
    fold,
)
from orchestrator.core.messages import TextPart
from orchestrator.core.request import (
    EmbeddingRequest,
)
from orchestrator.models.hosted import Deployments
from orchestrator.pipeline.explain import Explainer
from tests.unit.pipeline import gateway_parts
from tests.unit.pipeline.gateway_parts import (
    ANYBODY,
    ASKED,
    EVENTS,
    DenyAll,
    Ledger,
    ShareAll,
    gateway,
)

deployments = gateway_parts.deployments


async def test_a_good_request_gives_all_events_and_books_what_the_engine_produced(
    deployments: Deployments,
) -> None:
    ledger, backend = Ledger(), ScriptedBackend(EVENTS)
    served = gateway(deployments, backend, ledger)
    generation = await served.generate(ANYBODY, ASKED, CallContext("req_1"))
    completion = await fold(generation)
    await generation.aclose()
    await served.close()
    assert completion.choices[0].parts == [TextPart("Hello")]
    assert (ledger.reserved, ledger.settled, backend.stops) == ([8], [5], 1)
    (entry,) = ledger.entries
    assert (entry.outcome, entry.completion_tokens, entry.request_id) == ("ok", 2, "req_1")
    assert entry.first_token_s is not None
    assert generation.headers == {
        "x-op-route": "local",
        "x-op-model": "acme/chat",
        "x-ratelimit-limit-requests": "60",
    }


async def test_what_is_remembered_of_a_prompt_is_for_its_tenant(deployments: Deployments) -> None:
    backend = ScriptedBackend(EVENTS)
    served = gateway(deployments, backend)
    await fold(await served.generate(ANYBODY, ASKED, CallContext("req_1")))
    await served.close()
    assert (backend.owners, backend.sharing) == (["ten_1"], [()])
    books = Ledger()
    await Explainer(served._gate, books, books).explain(ANYBODY, None, ASKED, client_ip=None)
    assert backend.owners == ["ten_1", "ten_1"]


async def test_tenants_of_the_policy_share_what_the_engine_caches(
    deployments: Deployments,
) -> None:
    backend, policy = ScriptedBackend(EVENTS), ShareAll()
    served = gateway(deployments, backend, policy=policy)
    await fold(await served.generate(ANYBODY, ASKED, CallContext("req_1")))
    await served.close()
    assert (backend.owners, backend.sharing) == (["ten_1"], [("ten_2",)])


async def test_closing_early_ends_the_backend_and_books_once(deployments: Deployments) -> None:
    ledger, backend = Ledger(), ScriptedBackend(EVENTS)
    served = gateway(deployments, backend, ledger)
    generation = await served.generate(ANYBODY, ASKED, CallContext("req_1"))
    await generation.aclose()
    await generation.aclose()
    await served.close()
    assert backend.stops == 1
    assert ledger.settled == [5]
    assert [entry.outcome for entry in ledger.entries] == ["cancelled"]


async def test_a_backend_without_any_event_is_an_upstream_failure(
    deployments: Deployments,
) -> None:
    backend = ScriptedBackend(())
    with pytest.raises(UpstreamFailed):
        await gateway(deployments, backend).generate(ANYBODY, ASKED, CallContext("req_1"))


async def test_a_request_that_does_not_fit_costs_nothing(deployments: Deployments) -> None:
    ledger, backend = Ledger(), ScriptedBackend(EVENTS, refusal=ContextLengthExceeded("too long"))
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
    backend, ledger = ScriptedBackend(EVENTS), Ledger()
    with pytest.raises(PolicyDenied, match="Closed for today"):
        await gateway(deployments, backend, ledger, DenyAll()).generate(
            ANYBODY, ASKED, CallContext("r")
        )
    assert (backend.stops, ledger.reserved) == (0, [])


async def test_a_model_is_not_asked_for_what_it_cannot_do(deployments: Deployments) -> None:
    with pytest.raises(ModelNotFound, match="made to embed text"):
        await gateway(deployments).generate(
            ANYBODY, replace(ASKED, model="acme/embed"), CallContext("r")
        )
    with pytest.raises(ModelNotFound, match="made to generate text"):
        await gateway(deployments).embed(
            ANYBODY, EmbeddingRequest("acme/chat", ("x",)), CallContext("r")
        )


async def test_embeddings_settle_their_prompt(deployments: Deployments) -> None:
    ledger = Ledger()
    answer = await gateway(deployments, ledger=ledger).embed(
        ANYBODY, EmbeddingRequest("acme/embed", ("x",)), CallContext("r")
    )
    assert (answer.prompt_tokens, ledger.reserved, ledger.settled) == (3, [3], [3])


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
    ledger, backend = Ledger(), ScriptedBackend(EVENTS, so_far=Usage(3, 1))
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
    backend = ScriptedBackend(EVENTS[:2], error=ModelUnavailable("gone"))
    generation = await gateway(deployments, backend, ledger).generate(
        ANYBODY, ASKED, CallContext("req_1")
    )
    with pytest.raises(ModelUnavailable):
        await fold(generation)
    assert [entry.outcome for entry in ledger.promised] == ["failed"]
    await generation.aclose()


async def test_what_cannot_be_booked_is_not_begun(deployments: Deployments) -> None:
    ledger, backend = Ledger(full=True), ScriptedBackend(EVENTS)
    served = gateway(deployments, backend, ledger)
    with pytest.raises(StoreUnavailable):
        await served.generate(ANYBODY, ASKED, CallContext("req_1"))
    with pytest.raises(StoreUnavailable):
        await served.embed(ANYBODY, EmbeddingRequest("acme/embed", ("x",)), CallContext("r"))
    assert (backend.stops, ledger.reserved, ledger.entries) == (0, [], [])
