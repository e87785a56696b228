"""What the pipeline charges for calls that end early, and what it records as waste."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.backends.scripted import ScriptedBackend
from orchestrator.core.context import CallContext
from orchestrator.core.errors import (
    ContextLengthExceeded,
    ModelUnavailable,
)
from orchestrator.core.events import (
    Usage,
    fold,
)
from orchestrator.core.request import (
    EmbeddingRequest,
    GenerationRequest,
)
from orchestrator.models.hosted import Deployments
from tests.unit.pipeline import gateway_parts
from tests.unit.pipeline.gateway_parts import (
    ANYBODY,
    ASKED,
    EVENTS,
    Ledger,
    charged,
    gateway,
)

deployments = gateway_parts.deployments


async def test_a_failure_before_the_first_event_is_raised_and_charges_nothing(
    deployments: Deployments,
) -> None:
    ledger = Ledger()
    backend = ScriptedBackend((), error=ModelUnavailable("gone"), produced=Usage(3, 0))
    served = gateway(deployments, backend, ledger)
    with pytest.raises(ModelUnavailable):
        await served.generate(ANYBODY, ASKED, CallContext("req_1"))
    await served.close()
    assert (ledger.settled, backend.stops) == ([0], 1)
    assert [entry.outcome for entry in ledger.entries] == ["failed"]


async def test_a_failure_after_the_first_event_reaches_the_reader_and_is_charged(
    deployments: Deployments,
) -> None:
    ledger = Ledger()
    backend = ScriptedBackend(EVENTS[:2], error=ModelUnavailable("gone"), answered=1)
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
    backend = ScriptedBackend(EVENTS[:2], error=ModelUnavailable("gone"), answered=2)
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
    served = gateway(deployments, ScriptedBackend(EVENTS, answered=2), ledger)
    generation = await served.generate(ANYBODY, replace(ASKED, whole=whole), CallContext("req_1"))
    await fold(generation)
    assert [entry.outcome for entry in ledger.promised] == ["ok"]
    await generation.aclose(RuntimeError("cannot be written down"))
    await served.close()
    assert [entry.outcome for entry in ledger.promised] == ["ok", "failed"]
    assert charged(ledger) == [("failed", 0, 0, 5) if whole else ("failed", 3, 2, 0)]


async def test_tokens_behind_the_end_are_waste_however_it_ends(deployments: Deployments) -> None:
    ledger = Ledger()
    served = gateway(deployments, ScriptedBackend(EVENTS, dropped=4), ledger)
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
    backend = ScriptedBackend((), error=ModelUnavailable("gone"))
    served = gateway(deployments, backend, ledger)
    with pytest.raises(ModelUnavailable):
        await served.generate_all(ANYBODY, [ASKED] * 3, CallContext("req_1"))
    await served.close()
    assert (ledger.reserved, ledger.settled, backend.stops) == ([24], [0, 0, 0], 3)
    assert charged(ledger) == [("failed", 0, 0, 5)] * 3


async def test_of_a_batch_that_does_not_fit_nothing_is_reserved(deployments: Deployments) -> None:
    ledger, backend = Ledger(), ScriptedBackend(EVENTS, refusal=ContextLengthExceeded("too long"))
    served = gateway(deployments, backend, ledger)
    with pytest.raises(ContextLengthExceeded):
        await served.generate_all(ANYBODY, [ASKED] * 3, CallContext("req_1"))
    assert (ledger.reserved, ledger.cancelled, ledger.entries) == ([], 1, [])


async def test_shorter_prompts_are_tried_by_the_same_admission(deployments: Deployments) -> None:
    ledger, backend = Ledger(), ScriptedBackend(EVENTS, refusal=ContextLengthExceeded("too long"))
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


async def test_embeddings_that_fail_cost_nothing_and_their_work_is_waste(
    deployments: Deployments,
) -> None:
    ledger, asked = Ledger(), EmbeddingRequest("acme/embed", ("x",))
    backend = ScriptedBackend(EVENTS, embedded=5, error=ModelUnavailable("gone"))
    with pytest.raises(ModelUnavailable):
        await gateway(deployments, backend, ledger).embed(ANYBODY, asked, CallContext("r"))
    assert (ledger.settled, charged(ledger)) == ([0], [("failed", 0, 0, 5)])
