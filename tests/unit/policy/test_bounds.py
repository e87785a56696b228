"""Modules that take too much, as requests, checks and trials meet them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import pytest_asyncio

from orchestrator.core.errors import InvalidRequest, PolicyUnavailable
from orchestrator.policy import Decision
from orchestrator.policy.candidates import Candidates
from orchestrator.policy.embedded import EmbeddedRego
from orchestrator.policy.question import PolicyVersion, version_of
from orchestrator.policy.service import PolicyAdmin
from orchestrator.rego.pool import Evaluators, Place
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from tests.unit.policy.facts import asked, embedded, new_evaluators, version

NUMBERS = ", ".join(str(number) for number in range(40))
SIX = "\n".join(f"\tsome {name} in nums" for name in "abcdef")
SLOW_FOR_BAD = (
    'deny contains "x" if {\n\tinput.key.label == "bad"\n'
    f"\tnums := [{NUMBERS}]\n{SIX}\n\ta + b + c + d + e + f > 999\n}}"
)
SLOW = SLOW_FOR_BAD.replace('\tinput.key.label == "bad"\n', "")
PATIENT_S = 60


@pytest_asyncio.fixture
async def rego() -> AsyncIterator[EmbeddedRego]:
    async with embedded(timeout_s=0.3) as made:
        # How long callers wait is another matter, and this machine may be busy.
        made._patience_s = PATIENT_S
        yield made


@pytest_asyncio.fixture
async def evaluators() -> AsyncIterator[Evaluators]:
    made = new_evaluators()
    yield made
    await made.close()


def candidates(evaluators: Evaluators, timeout_s: float = 0.3) -> Candidates:
    return Candidates(evaluators, timeout_s=timeout_s)


async def refusal(
    rego: EmbeddedRego, policy: PolicyVersion, **facts: Any
) -> PolicyUnavailable | None:
    """How a request ends that no decision is had for."""
    try:
        await rego.decide(policy, asked(**facts))
    except PolicyUnavailable as error:
        return error
    return None


async def test_a_label_that_makes_it_loop_is_refused_at_once_and_other_keys_are_not(
    rego: EmbeddedRego, caplog: pytest.LogCaptureFixture
) -> None:
    policy = version(SLOW_FOR_BAD, number=7)
    bad = {"key_id": "key_bad", "key_label": "bad"}
    errors = [await refusal(rego, policy, **bad) for _ in range(20)]
    for error in errors:
        assert error is not None
        assert "Policy `pol_1` version 7 cannot be evaluated: it takes longer" in error.message
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= 60
    # Replies write headers into their error, so no two may share one.
    assert len({id(error) for error in errors}) == 20
    assert await refusal(rego, policy) is None
    assert await refusal(rego, version(), **bad) is None
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "policy pol_1 version 7 cannot be evaluated" in line.getMessage()
    (problem,) = rego.problems()
    assert problem.startswith("policy pol_1 version 7 cannot be evaluated: it takes longer than")


async def test_a_version_that_waits_is_not_evaluated_for_any_key(
    rego: EmbeddedRego, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = version(SLOW)
    errors = await asyncio.gather(
        *(refusal(rego, policy, key_id=f"key_{number}") for number in range(30))
    )
    assert all(errors)
    monkeypatch.setattr(rego._evaluators, "place", None)
    assert await refusal(rego, policy, key_id="key_new") is not None
    rego.forget("ten_1", "pol_1")
    monkeypatch.undo()
    assert rego.problems() == []


async def test_equal_questions_at_once_are_one_evaluation(
    rego: EmbeddedRego, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[str] = []
    original = rego._evaluators.place

    def counted(tenant_id: str, patience_s: float) -> AbstractAsyncContextManager[Place]:
        places.append(tenant_id)
        return original(tenant_id, patience_s)

    monkeypatch.setattr(rego._evaluators, "place", counted)
    policy = version('deny contains input.key.label if input.key.plan == "free"')
    answers = await asyncio.gather(*(rego.decide(policy, asked(plan="free")) for _ in range(50)))
    assert {answer.reason for answer in answers} == {"quickstart"}
    assert len(places) == 1
    await rego.decide(policy, asked(plan="free"))
    assert len(places) == 1


async def test_a_caller_that_does_not_wait_finds_the_answer_next_time(rego: EmbeddedRego) -> None:
    policy = version('deny contains "no"')
    rego._patience_s = 0
    error = await refusal(rego, policy)
    assert error is not None
    assert error.message == "The policy of this key cannot be evaluated at the moment."
    while rego._asking:
        await asyncio.wait(rego._asking.values())
    # Without a place in time nothing was evaluated; with one it is remembered.
    rego._patience_s = PATIENT_S
    first = asyncio.create_task(rego.decide(policy, asked()))
    await asyncio.sleep(0)
    first.cancel()
    while rego._asking:
        await asyncio.wait(rego._asking.values())
    before = rego._tally.hits
    assert (await rego.decide(policy, asked())).reason == "no"
    assert rego._tally.hits == before + 1


async def test_a_fault_of_the_module_for_one_label_costs_other_keys_nothing(
    rego: EmbeddedRego,
) -> None:
    policy = version('deny contains "x" if to_number(input.key.label) == 3')
    assert await refusal(rego, policy, key_id="key_a", key_label="abc") is not None
    assert await refusal(rego, policy, key_id="key_4", key_label="4") is None
    assert not (await rego.decide(policy, asked(key_id="key_3", key_label="3"))).allow


async def test_long_documents_are_evaluated_where_they_hold_up_nothing(
    rego: EmbeddedRego, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmbeddedRego, "evaluate", None)
    names = [f"model-{number}" for number in range(200)]
    listed = version(allowed_models=names)
    assert (await rego.decide(listed, asked())).rule == "model_not_in_policy"
    assert (await rego.decide(listed, asked(requested="model-7", model_names=["model-7"]))).allow
    plans = version(plan_models={"free": names})
    assert (await rego.decide(plans, asked(plan="free"))).rule == "model_not_in_plan"
    empty = version(plan_models={name: [] for name in names})
    assert (await rego.decide(empty, asked(plan="model-1"))).rule == "model_not_in_plan"
    assert (await rego.decide(version(plan_models={"x" * 100_000: []}), asked())).allow
    assert (await rego.decide(version(), asked(allowed_models=names))).rule == "model_not_allowed"


async def test_a_check_names_the_bound(evaluators: Evaluators) -> None:
    check = candidates(evaluators).check
    with pytest.raises(InvalidRequest) as caught:
        await check(version(SLOW), "ten_1")
    assert (caught.value.param, caught.value.message) == (
        "module",
        "`module`, line 1, column 1: it takes longer than 0.3 s to evaluate.",
    )
    await check(version(SLOW_FOR_BAD), "ten_1")
    with pytest.raises(InvalidRequest, match=r"line 6, column \d+"):
        await check(version('deny contains "x" if {\n\tinput.key.label == == "x"\n}'), "ten_1")


@pytest.mark.parametrize(
    "module",
    [
        "deny contains " + "count(" * 9000 + "1" + ")" * 9000,
        "deny contains x if {" + " some" * 13_000 + "}",
        "\n".join(f"r{number} := r{number + 1}" for number in range(4000)),
        "deny contains " + "[" * 30_000 + "1" + "]" * 30_000,
    ],
    ids=["nested calls", "words", "rules", "brackets"],
)
async def test_reading_a_module_has_a_bound_too(evaluators: Evaluators, module: str) -> None:
    with pytest.raises(InvalidRequest, match=r"`module`, line \d+"):
        await candidates(evaluators).check(version(module), "ten_1")


async def test_a_document_may_name_so_many_models(evaluators: Evaluators) -> None:
    plans = {f"plan-{number}": [f"m{one}" for one in range(1000)] for number in range(6)}
    made = version_of("pol_1", 1, {"plan_models": plans}, None)
    with pytest.raises(InvalidRequest, match=r"5000 names at most .* holds 6007") as caught:
        await candidates(evaluators).check(made, "ten_1")
    assert caught.value.param == "document"


async def test_a_trial_says_what_cannot_be_evaluated_and_ends(
    evaluators: Evaluators, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = candidates(evaluators).judge
    policy = version(SLOW_FOR_BAD)
    decisions: list[Decision] = await judge(
        policy, [asked(), asked(key_label="bad"), asked(plan="free")], "ten_1"
    )
    assert [decision.rule for decision in decisions] == ["allowed", "unavailable", "allowed"]
    assert "longer than 0.3 s" in decisions[1].reason
    monkeypatch.setattr("orchestrator.policy.candidates._MAX_CPU_S", 0.5)
    with pytest.raises(InvalidRequest, match=r"more than 0\.5 s for the first 2 of 50 questions"):
        await judge(policy, [asked(key_label="bad")] * 50, "ten_1")


async def test_an_input_of_a_trial_has_a_size(evaluators: Evaluators) -> None:
    inputs = [{}, {"key_label": "x" * 70_000}]
    admin = PolicyAdmin(Database(Settings()), candidates(evaluators))
    with pytest.raises(InvalidRequest, match=r"65536 bytes at most; it has 70017") as caught:
        await admin.test({}, None, inputs, tenant_id="ten_1")
    assert caught.value.param == "inputs[1]"
