"""Explains what a call would get if it came now, without using any budget.

It uses the same gate, tokenizer and limits as the call itself, so that the two cannot differ.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from orchestrator.backends.protocol import Prepared, Run
from orchestrator.books.usage_records import Books
from orchestrator.core.errors import GatewayError, RateLimited, Unauthenticated
from orchestrator.core.limits import LimitHit
from orchestrator.core.request import EmbeddingRequest, GenerationRequest
from orchestrator.keys.principal import Principal
from orchestrator.pipeline.gate import Admitted, Asked, Gate
from orchestrator.pipeline.tasks import task_of
from orchestrator.policy import Decision
from orchestrator.quota import Quota


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """What the call would reserve: the prompt and every choice at full length."""

    prompt: int
    most: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """`error` is what the call would get, `None` when it would run.

    `first` is the limit that would be reached first. A field is `None` if the call would not have
    got as far as that step.
    """

    error: GatewayError | None = None
    decision: Decision | None = None
    route: str | None = None
    route_reason: str = ""
    first: LimitHit | None = None
    tokens: TokenEstimate | None = None


class Explainer:
    """Explains calls for a key."""

    def __init__(self, gate: Gate, quota: Quota, books: Books) -> None:
        self._gate = gate
        self._quota = quota
        self._books = books

    async def explain(
        self,
        principal: Principal,
        fault: Unauthenticated | None,
        request: GenerationRequest | EmbeddingRequest,
        *,
        client_ip: str | None,
        at: float | None = None,
    ) -> Explanation:
        """What `request` would get from `client_ip`, for a key that has the `fault`, if any.

        `at` is the time for which the policy is evaluated, in Unix seconds; None is now.
        """
        if fault is not None:
            return Explanation(error=fault)
        asked = Asked(
            request.model,
            task_of(request).name,
            request.route_hint,
            client_ip,
            time.time() if at is None else at,
        )
        so_far = Explanation()
        try:
            deployment = self._gate.find(asked.model)
            decision = await self._gate.decide(principal, deployment, asked)
            so_far = replace(so_far, decision=decision)
            admitted = self._gate.enter(principal, deployment, decision, asked)
            route = admitted.route
            so_far = replace(so_far, route=route.backend.name, route_reason=route.reason)
            self._books.check()
        except GatewayError as error:
            return replace(so_far, error=error)
        return await self._with_limits(so_far, admitted, request)

    async def _with_limits(
        self,
        so_far: Explanation,
        admitted: Admitted,
        request: GenerationRequest | EmbeddingRequest,
    ) -> Explanation:
        """Adds the limits: requests count before the prompt is rendered, tokens after it."""
        error: GatewayError | None = None
        try:
            tokens = await _tokens(admitted, request)
            so_far = replace(so_far, tokens=tokens)
        except GatewayError as unfit:
            error = unfit
        try:
            most = so_far.tokens.most if so_far.tokens is not None else 0
            outlook = await self._quota.outlook(admitted.caller, task_of(request).bucket, most)
        except GatewayError as unavailable:
            return replace(so_far, error=unavailable)
        so_far = replace(so_far, first=outlook.first)
        if outlook.refusal is not None and (error is None or not _is_of_tokens(outlook.refusal)):
            error = outlook.refusal
        return replace(so_far, error=error)


async def _tokens(
    admitted: Admitted, request: GenerationRequest | EmbeddingRequest
) -> TokenEstimate:
    """What the request would reserve. Raises: InvalidRequest, ContextLengthExceeded."""
    route = admitted.route
    if isinstance(request, GenerationRequest):
        owner = admitted.caller.tenant_id
        prepared: Prepared[Run] = await route.backend.prepare(route.model, request, owner)
    else:
        prepared = await route.backend.prepare_embedding(route.model, request)
    return TokenEstimate(prepared.prompt_tokens, prepared.most_tokens)


def _is_of_tokens(refusal: RateLimited) -> bool:
    return refusal.hit is not None and refusal.hit.kind == "tpd"
