"""The first half of the pipeline: finds the model, asks the policy, chooses the route."""

from __future__ import annotations

import msgspec

from orchestrator.core.caches import BoundedCache
from orchestrator.core.errors import ModelNotFound, PolicyDenied
from orchestrator.core.limits import tighter
from orchestrator.core.request import RouteHint
from orchestrator.keys.principal import Principal
from orchestrator.models.hosted import Deployment, Deployments
from orchestrator.pipeline.routing import Route, Router
from orchestrator.pipeline.tasks import TASKS
from orchestrator.policy import Decision, PolicyEngine, PolicyInput
from orchestrator.quota import Caller
from orchestrator.telemetry import current_call, names

MAX_REMEMBERED = 20_000


class Admitted(msgspec.Struct, frozen=True):
    """The route of an allowed request, and the caller whose limits it uses.

    The limits include those of the policy. `cache_tenants` are the ids of the tenants with which
    the policy shares the prefix cache.
    """

    route: Route
    caller: Caller
    cache_tenants: tuple[str, ...] = ()


class Asked(msgspec.Struct, frozen=True):
    """The part of a request on which a decision depends. `at` of `None` is now.

    A decision with `at` set is not recorded.
    """

    model: str
    task: str
    route_hint: RouteHint
    client_ip: str | None = None
    at: float | None = None


class Gate:
    """Checks, in this order: model known (404), allowed (403), right task (404), loaded (503)."""

    def __init__(
        self,
        deployments: Deployments,
        policy: PolicyEngine,
        router: Router,
        most_remembered: int = MAX_REMEMBERED,
    ) -> None:
        self._deployments = deployments
        self._policy = policy
        self._router = router
        # Values derived from objects that other parts cache, by the ids of these objects. Each
        # entry holds its objects, so that Python does not reuse their ids.
        self._questions: BoundedCache[tuple[int, Asked], tuple[Principal, PolicyInput]]
        self._questions = BoundedCache(most_remembered)
        self._callers: BoundedCache[tuple[int, int], tuple[Principal, Decision, Caller]]
        self._callers = BoundedCache(most_remembered)

    async def admit(self, principal: Principal, asked: Asked) -> Admitted:
        """Runs all checks and returns the route. Raises: GatewayError."""
        deployment = self.find(asked.model)
        call = current_call()
        with call.stage(names.POLICY) as stage:
            decision = await self.decide(principal, deployment, asked)
            if call.sampled:
                stage.note(names.POLICY_RULE, decision.rule)
                stage.note(names.POLICY_ID, decision.policy_id)
            if not decision.allow:
                raise _denied(decision)
        with call.stage(names.ROUTING) as stage:
            admitted = self.enter(principal, deployment, decision, asked)
            if call.sampled:
                stage.note(names.ROUTE, admitted.route.backend.name)
        return admitted

    def find(self, name: str) -> Deployment:
        """The model with this id or alias. Raises: ModelNotFound."""
        deployment = self._deployments.find(name)
        if deployment is None:
            raise unknown_model(name)
        return deployment

    async def decide(self, principal: Principal, deployment: Deployment, asked: Asked) -> Decision:
        """The decision of the key's policy. Raises: PolicyUnavailable."""
        known = self._questions.get((id(principal), asked))
        if known is not None:
            return await self._policy.decide(known[1])
        question = _question(principal, deployment, asked)
        if asked.at is None:
            self._questions.put((id(principal), asked), (principal, question))
        return await self._policy.decide(question)

    def enter(
        self, principal: Principal, deployment: Deployment, decision: Decision, asked: Asked
    ) -> Admitted:
        """Checks the decision and the task, and chooses the route. Raises: GatewayError."""
        if not decision.allow:
            raise _denied(decision)
        task = deployment.model.task
        if task != asked.task:
            raise ModelNotFound(
                f"The model `{asked.model}` cannot {TASKS[asked.task].verb}: it is made to"
                f" {TASKS[task].verb}.",
                param="model",
            )
        route = self._router.route(deployment.model, decision.routes, asked.route_hint)
        route.backend.check(deployment.model)
        caller = self._caller(principal, decision)
        return Admitted(route, caller, decision.cache_tenants)

    def _caller(self, principal: Principal, decision: Decision) -> Caller:
        """The caller whose limits are used; the same object for the same two arguments."""
        key = (id(principal), id(decision))
        known = self._callers.get(key)
        if known is not None:
            return known[2]
        limits = tighter(principal.limits, decision.limits)
        caller = Caller(principal.key_id, principal.tenant_id, limits, principal.tenant_limits)
        self._callers.put(key, (principal, decision, caller))
        return caller


def _question(principal: Principal, deployment: Deployment, asked: Asked) -> PolicyInput:
    model = deployment.model
    return PolicyInput(
        key_id=principal.key_id,
        tenant_id=principal.tenant_id,
        model=model.id,
        task=asked.task,
        route_hint=asked.route_hint,
        client_ip=asked.client_ip,
        key_label=principal.key_label,
        admin=principal.admin,
        allowed_models=principal.allowed_models,
        plan=principal.plan or principal.tenant_plan,
        route_policy=principal.route_policy,
        policy_id=principal.policy_id,
        api_disabled=principal.api_disabled,
        model_names=(model.id, *model.aliases),
        requested=asked.model,
        at=asked.at,
    )


def _denied(decision: Decision) -> PolicyDenied:
    return PolicyDenied(
        decision.reason, param=decision.param, reason=decision.word, rule=decision.rule
    )


def unknown_model(name: str) -> ModelNotFound:
    """The error for a model that does not exist, or that this caller may not see."""
    return ModelNotFound(f"The model `{name}` does not exist.", param="model")
