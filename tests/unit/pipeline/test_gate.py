"""What the gate remembers of a caller: whatever the answer hangs on makes a new question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.backends.triton.placement import single
from orchestrator.backends.triton.served import ServedModel
from orchestrator.contract.catalogue import Catalogue, EngineRecipe, Model
from orchestrator.core.errors import PolicyDenied
from orchestrator.core.limits import Limits
from orchestrator.core.request import SamplingParams
from orchestrator.keys.principal import Principal
from orchestrator.models.hosted import Deployments
from orchestrator.pipeline.gate import Asked, Gate
from orchestrator.pipeline.routing import Router
from orchestrator.policy import Decision, PolicyInput
from orchestrator.triton.client import TritonClient, TritonEndpoint
from tests.unit.pipeline.gateway_parts import scripted

CHAT = Model("acme/chat", "chat", "generate", 64, EngineRecipe("-"), aliases=("alias",))
ANYBODY = Principal("key_1", "app", "ten_1", admin=False, allowed_models=("*",))
ASKED = Asked("acme/chat", "generate", "local-only", "10.0.0.1")


class Listening:
    """A policy that answers with `decision`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.decision = Decision(allow=True, rule="allowed", limits=Limits(rpm=9))
        self.asked: list[PolicyInput] = []

    async def decide(self, asked: PolicyInput) -> Decision:
        self.asked.append(asked)
        return self.decision


@pytest.fixture
def policy() -> Listening:
    return Listening()


@pytest.fixture
async def gate(tmp_path: Path, policy: Listening) -> Gate:
    client = TritonClient(TritonEndpoint("unix:/nonexistent"))
    deployments = Deployments(Catalogue((CHAT,)), tmp_path, single(client), interval_s=1)
    (deployment,) = deployments.all
    # Nobody looks at what stands behind the model.
    deployment.served = ServedModel(CHAT, None, None, SamplingParams())  # type: ignore[arg-type]
    deployment.placement.replicas[0].admit()
    return Gate(deployments, policy, Router(scripted(deployments, None)), most_remembered=10)


async def test_the_policy_is_asked_every_time_and_its_limits_bind(
    gate: Gate, policy: Listening
) -> None:
    principal = replace(ANYBODY, limits=Limits(rpm=20, tpd=7), tenant_limits=Limits(tpd=8))
    first, second = await gate.admit(principal, ASKED), await gate.admit(principal, ASKED)
    assert first.caller is second.caller
    assert first.caller.key_limits == Limits(rpm=9, tpd=7)
    assert first.caller.tenant_limits == Limits(tpd=8)
    assert len(policy.asked) == 2
    policy.decision = Decision(allow=True, rule="allowed", limits=Limits(rpm=3))
    third = await gate.admit(principal, ASKED)
    assert third.caller.key_limits == Limits(rpm=3, tpd=7)
    policy.decision = Decision(allow=False, rule="closed", reason="Closed for today.")
    with pytest.raises(PolicyDenied):
        await gate.admit(principal, ASKED)


async def test_another_caller_address_or_name_is_another_question(
    gate: Gate, policy: Listening
) -> None:
    changed = replace(ANYBODY, allowed_models=("acme/chat",), plan="pro", api_disabled=True)
    for principal in (ANYBODY, changed):
        for asked in (
            ASKED,
            Asked("alias", "generate", "cloud-ok", None),
            Asked("acme/chat", "generate", "local-only", "10.0.0.2"),
        ):
            for _ in range(2):
                admitted = await gate.admit(principal, asked)
                question = policy.asked[-1]
                assert admitted.caller.key_limits == Limits(rpm=9)
                assert question.allowed_models == principal.allowed_models
                assert question.plan == principal.plan
                assert question.api_disabled == principal.api_disabled
                assert question.requested == asked.model
                assert question.model == "acme/chat"
                assert question.model_names == ("acme/chat", "alias")
                assert question.client_ip == asked.client_ip
                assert question.route_hint == asked.route_hint
                assert question.at is None


async def test_keys_that_come_and_go_are_told_apart_and_not_kept_for_ever(
    gate: Gate, policy: Listening
) -> None:
    for number in range(50):
        # The one before is gone by now, and its address in memory may be this one's.
        principal = replace(ANYBODY, key_id=f"key_{number}")
        admitted = await gate.admit(principal, ASKED)
        assert admitted.caller.key_id == f"key_{number}"
        assert policy.asked[-1].key_id == f"key_{number}"
    assert len(gate._questions) <= 10
    assert len(gate._callers) <= 10
