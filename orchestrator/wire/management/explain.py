"""What a call of a key would meet."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.core.errors import GatewayError, InvalidRequest, NotFound, Unauthenticated
from orchestrator.core.limits import LimitHit
from orchestrator.core.request import EmbeddingRequest, GenerationRequest
from orchestrator.http.bodies import BodyReader, StrictBodyReader
from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.exchange import Exchange
from orchestrator.http.openapi import MANAGEMENT, Operation
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.principal import Principal
from orchestrator.pipeline.explain import Explainer, Explanation
from orchestrator.policy.question import LATEST
from orchestrator.policy.views import decision_object
from orchestrator.wire.management.admin_call import admitted, path_id, reply
from orchestrator.wire.management.replies import Explanation as Explained
from orchestrator.wire.openai import embeddings as openai_embeddings
from orchestrator.wire.openai.chat import request as chat_request


class VirtualKeyExplain(msgspec.Struct, kw_only=True):
    """A body of a chat or of embeddings, and from where and when it would be sent."""

    request: msgspec.Raw
    client_ip: str | None = None
    at: float | None = None


def routes(authenticator: Authenticator, explainer: Explainer) -> list[Route]:
    """The explanation of a key. It needs an admin's key."""
    operation = Operation(
        body=VirtualKeyExplain,
        reply=Explained,
        errors=(*MANAGEMENT, 404, 409),
        error=ErrorReply,
    )
    return [
        Route(
            "POST",
            "/keys/{key_id}/explain",
            _Handlers(authenticator, explainer).explain,
            "explain_key",
            "Explain what a call of a key would meet",
            operation,
        )
    ]


class _Handlers:
    """One method for each route."""

    def __init__(self, authenticator: Authenticator, explainer: Explainer) -> None:
        self._authenticator = authenticator
        self._explainer = explainer
        self._explanations = StrictBodyReader(VirtualKeyExplain)
        self._chats = BodyReader(chat_request.ChatRequest)
        self._embeddings = BodyReader(openai_embeddings.EmbeddingsRequest)

    async def explain(self, exchange: Exchange) -> None:
        """What the call would meet if that key sent it now; nothing is spent.

        Without `client_ip` it comes from where this question comes from.
        """
        principal = await admitted(exchange, self._authenticator, "manage policies")
        key_id = path_id(exchange, "key_id")
        found = await self._authenticator.principal_of(principal.tenant_id, key_id)
        if found is None:
            raise NotFound(f"There is no key `{key_id[:40]}`.")
        body = await exchange.decoded(self._explanations.read)
        if body.at is not None and not 0 <= body.at < LATEST:
            raise InvalidRequest("`at` must be Unix seconds.", param="at")
        kind, explanation = await self._explained(exchange, found, body)
        await reply(exchange, explanation_object(key_id, kind, explanation))

    async def _explained(
        self,
        exchange: Exchange,
        found: tuple[Principal, Unauthenticated | None],
        body: VirtualKeyExplain,
    ) -> tuple[str, Explanation]:
        principal, fault = found
        kind = _kind(body.request)
        if fault is not None:
            return kind, Explanation(error=fault)
        try:
            request = await exchange.work(
                bytes(body.request), lambda given: self._decoded(kind, given)
            )
        except InvalidRequest as error:
            return kind, Explanation(error=error)
        ip = body.client_ip if body.client_ip is not None else exchange.context(kind).client_ip
        return kind, await self._explainer.explain(
            principal, None, request, client_ip=ip, at=body.at
        )

    def _decoded(self, kind: str, request: bytes) -> GenerationRequest | EmbeddingRequest:
        """Raises: InvalidRequest, as the endpoint would."""
        if kind == "chat":
            return chat_request.decode(self._chats.read(request))
        body = self._embeddings.read(request)
        decoded = openai_embeddings.decode(body)
        openai_embeddings.encoding_format(body)
        return decoded


def explanation_object(key_id: str, kind: str, explanation: Explanation) -> dict[str, Any]:
    """An explanation as it is shown."""
    error, decision, tokens = explanation.error, explanation.decision, explanation.tokens
    return {
        "object": "explanation",
        "key_id": key_id,
        "endpoint": kind,
        "allow": error is None,
        "status": 200 if error is None else error.status,
        "error": None if error is None else _error_object(error),
        "decision": None
        if decision is None
        else {
            **decision_object(decision),
            "policy_id": decision.policy_id,
            "policy_version": decision.version,
        },
        "route": explanation.route,
        "route_reason": explanation.route_reason or None,
        "limit": None if explanation.first is None else _limit_object(explanation.first),
        "tokens": None
        if tokens is None
        else {
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.most - tokens.prompt,
            "total_tokens": tokens.most,
        },
    }


def _error_object(error: GatewayError) -> dict[str, Any]:
    return {
        "code": error.code,
        "reason": error.detail_reason,
        "message": error.message,
        "param": error.param,
    }


def _limit_object(hit: LimitHit) -> dict[str, Any]:
    return {
        "scope": hit.scope,
        "kind": hit.kind,
        "limit": hit.limit,
        "remaining": hit.remaining,
        "reset_at": hit.reset_at,
    }


def _kind(request: msgspec.Raw) -> str:
    """Which endpoint the body is for. Raises: InvalidRequest."""
    given = msgspec.json.decode(request)
    if isinstance(given, dict) and "messages" in given:
        return "chat"
    if isinstance(given, dict) and "input" in given:
        return "embeddings"
    raise InvalidRequest(
        "`request` must be the body of a chat (with `messages`) or of embeddings (with `input`).",
        param="request",
    )
