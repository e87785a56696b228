"""The management of policies, and what a call of a key would meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from orchestrator.core.actor import UNSET, Actor
from orchestrator.core.errors import (
    GatewayError,
    InvalidRequest,
    NotFound,
    Unauthenticated,
)
from orchestrator.core.limits import LimitHit
from orchestrator.core.request import EmbeddingRequest, GenerationRequest
from orchestrator.http.bodies import BodyReader, StrictBodyReader
from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.exchange import Exchange
from orchestrator.http.intake import MAX_MANAGEMENT_BYTES
from orchestrator.http.openapi import MANAGEMENT, Operation, query_parameter
from orchestrator.http.queries import given_in, require_admin
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.principal import Principal
from orchestrator.pipeline.explain import Explainer, Explanation
from orchestrator.policy.question import LATEST, PolicyVersion, version_of
from orchestrator.policy.service import MAX_REPLAYED, Change, PolicyAdmin
from orchestrator.policy.views import decision_object, recorded_object, replay_object
from orchestrator.wire.management.replies import Explanation as Explained
from orchestrator.wire.management.replies import (
    Policy,
    PolicyDecisionList,
    PolicyList,
    PolicyReplayResult,
    PolicyTestResult,
)
from orchestrator.wire.openai import embeddings as openai_embeddings
from orchestrator.wire.openai.chat import request as chat_request

_MAX_LISTED = 1000
_DEFAULT_LISTED = 100


class PolicyCreate(msgspec.Struct, kw_only=True):
    """A new policy."""

    name: str
    document: dict[str, Any] = msgspec.field(default_factory=dict)
    module: str | None = None


class PolicyUpdate(msgspec.Struct, kw_only=True):
    """A change of a policy: what is not there stays."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    document: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    module: str | msgspec.UnsetType | None = msgspec.UNSET
    shadow: bool = False
    active_version: int | msgspec.UnsetType = msgspec.UNSET
    candidate_version: int | msgspec.UnsetType | None = msgspec.UNSET


class PolicyTest(msgspec.Struct, kw_only=True):
    """A candidate and the inputs to put to it."""

    inputs: list[dict[str, Any]]
    document: dict[str, Any] | None = None
    module: str | msgspec.UnsetType | None = msgspec.UNSET


class PolicyReplay(msgspec.Struct, kw_only=True):
    """A candidate, or a version that exists, for the decisions since then (Unix seconds)."""

    version: int | None = None
    document: dict[str, Any] | None = None
    module: str | msgspec.UnsetType | None = msgspec.UNSET
    since: int = 0
    limit: int = MAX_REPLAYED


class VirtualKeyExplain(msgspec.Struct, kw_only=True):
    """A body of a chat or of embeddings, and from where and when it would be sent."""

    request: msgspec.Raw
    client_ip: str | None = None
    at: float | None = None


def routes(authenticator: Authenticator, admin: PolicyAdmin, explainer: Explainer) -> list[Route]:
    """The routes under `/policies`, and the explanation of a key. All need an admin's key."""
    handlers = _Handlers(authenticator, admin, explainer)
    version = (query_parameter("version", "Another version than the one in force."),)
    listed = (
        query_parameter("differing", "`true`: only where a candidate said otherwise."),
        query_parameter("limit"),
    )
    told, at = _operation, handlers
    return [
        Route("POST", "/policies", at.create, "create_policy", "Create a policy",
              told(PolicyCreate, Policy, status=201)),
        Route("GET", "/policies", at.listed, "list_policies", "List policies",
              told(None, PolicyList)),
        Route("POST", "/policies/test", at.test, "test_policy", "Try a policy",
              told(PolicyTest, PolicyTestResult)),
        Route("GET", "/policies/{policy_id}", at.retrieve, "retrieve_policy",
              "Retrieve a policy", told(None, Policy, version)),
        Route("PATCH", "/policies/{policy_id}", at.change, "update_policy",
              "Change a policy", told(PolicyUpdate, Policy)),
        Route("DELETE", "/policies/{policy_id}", at.delete, "delete_policy",
              "Delete a policy", told(None, None, status=204)),
        Route("POST", "/policies/{policy_id}/test", at.test, "test_policy_change",
              "Try a change of a policy", told(PolicyTest, PolicyTestResult)),
        Route("POST", "/policies/{policy_id}/replay", at.replay, "replay_policy",
              "Replay recorded decisions", told(PolicyReplay, PolicyReplayResult)),
        Route("GET", "/policies/{policy_id}/decisions", at.decisions, "list_policy_decisions",
              "List recorded decisions", told(None, PolicyDecisionList, listed)),
        Route("POST", "/keys/{key_id}/explain", at.explain, "explain_key",
              "Explain what a call of a key would meet",
              told(VirtualKeyExplain, Explained)),
    ]  # fmt: skip


class _Handlers:
    """One method for each route."""

    def __init__(
        self, authenticator: Authenticator, admin: PolicyAdmin, explainer: Explainer
    ) -> None:
        self._authenticator = authenticator
        self._admin = admin
        self._explainer = explainer
        self._creations = StrictBodyReader(PolicyCreate)
        self._patches = StrictBodyReader(PolicyUpdate)
        self._tests = StrictBodyReader(PolicyTest)
        self._replays = StrictBodyReader(PolicyReplay)
        self._explanations = StrictBodyReader(VirtualKeyExplain)
        self._chats = BodyReader(chat_request.ChatRequest)
        self._embeddings = BodyReader(openai_embeddings.EmbeddingsRequest)

    async def create(self, exchange: Exchange) -> None:
        """A new policy, in force for the keys that are given it."""
        principal = await self._admitted(exchange)
        body = self._creations.read(await exchange.body(MAX_MANAGEMENT_BYTES))
        view = await self._admin.create(
            principal.tenant_id, body.name, body.document, body.module, _by(exchange, principal)
        )
        await _reply(exchange, view.as_json(), status=201)

    async def listed(self, exchange: Exchange) -> None:
        """The policies of the caller's tenant, each with the version in force."""
        principal = await self._admitted(exchange)
        views = await self._admin.listed(principal.tenant_id)
        listing = [view.as_json() for view in views]
        await _reply(exchange, {"object": "list", "data": listing, "has_more": False})

    async def retrieve(self, exchange: Exchange) -> None:
        """One policy of the caller's tenant, with the version in force or the one asked for."""
        principal = await self._admitted(exchange)
        text = _query_value(exchange, "version")
        number = None if text is None else _number("version", text, 2**31 - 1)
        view = await self._admin.get(principal.tenant_id, _id(exchange), number)
        await _reply(exchange, view.as_json())

    async def change(self, exchange: Exchange) -> None:
        """Writes a new version, or puts one that exists in force or in the shadow."""
        principal = await self._admitted(exchange)
        body = self._patches.read(await exchange.body(MAX_MANAGEMENT_BYTES))
        change = Change(
            name=_given(body.name),
            document=_given(body.document),
            module=_given(body.module),
            shadow=body.shadow,
            active=_given(body.active_version),
            candidate=_given(body.candidate_version),
        )
        by = _by(exchange, principal)
        view = await self._admin.update(principal.tenant_id, _id(exchange), change, by)
        await _reply(exchange, view.as_json())

    async def delete(self, exchange: Exchange) -> None:
        """Ends a policy that no key has."""
        principal = await self._admitted(exchange)
        await self._admin.delete(principal.tenant_id, _id(exchange), _by(exchange, principal))
        await exchange.send({"type": "http.response.start", "status": 204, "headers": []})
        await exchange.send({"type": "http.response.body", "body": b""})

    async def test(self, exchange: Exchange) -> None:
        """What a candidate says to made-up inputs; what it leaves out is the policy's."""
        principal = await self._admitted(exchange)
        body = self._tests.read(await exchange.body(MAX_MANAGEMENT_BYTES))
        document, module = await self._candidate(
            principal, exchange.scope["path_params"].get("policy_id"), body.document, body.module
        )
        answers = await self._admin.test(
            document, module, body.inputs, tenant_id=principal.tenant_id
        )
        results = [decision_object(answer) for answer in answers]
        await _reply(exchange, {"object": "policy_test", "data": results})

    async def replay(self, exchange: Exchange) -> None:
        """The recorded decisions that a candidate would change."""
        principal = await self._admitted(exchange)
        body = self._replays.read(await exchange.body(MAX_MANAGEMENT_BYTES))
        if not 1 <= body.limit <= MAX_REPLAYED:
            raise InvalidRequest(f"`limit` must be between 1 and {MAX_REPLAYED}.", param="limit")
        if not 0 <= body.since < 2**40:
            raise InvalidRequest("`since` must be Unix seconds.", param="since")
        candidate = await self._version(principal, _id(exchange), body)
        checked, changed = await self._admin.replay(
            principal.tenant_id, _id(exchange), candidate, since=body.since, most=body.limit
        )
        await _reply(exchange, replay_object(checked, changed))

    async def decisions(self, exchange: Exchange) -> None:
        """The newest recorded decisions; with `differing=true` where a candidate said otherwise."""
        principal = await self._admitted(exchange)
        most = _number(
            "limit", _query_value(exchange, "limit") or str(_DEFAULT_LISTED), _MAX_LISTED
        )
        differing = _query_value(exchange, "differing") == "true"
        found = await self._admin.decisions(
            principal.tenant_id, _id(exchange), differing=differing, most=most
        )
        listing = [recorded_object(one) for one in found]
        await _reply(exchange, {"object": "list", "data": listing, "has_more": False})

    async def explain(self, exchange: Exchange) -> None:
        """What the call would meet if that key sent it now; nothing is spent.

        Without `client_ip` it comes from where this question comes from.
        """
        principal = await self._admitted(exchange)
        key_id: str = exchange.scope["path_params"]["key_id"]
        found = await self._authenticator.principal_of(principal.tenant_id, key_id)
        if found is None:
            raise NotFound(f"There is no key `{key_id[:40]}`.")
        body = await exchange.decoded(self._explanations.read)
        if body.at is not None and not 0 <= body.at < LATEST:
            raise InvalidRequest("`at` must be Unix seconds.", param="at")
        kind, explanation = await self._explained(exchange, found, body)
        await _reply(exchange, explanation_object(key_id, kind, explanation))

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

    async def _candidate(
        self,
        principal: Principal,
        policy_id: str | None,
        document: dict[str, Any] | None,
        module: str | msgspec.UnsetType | None,
    ) -> tuple[Mapping[str, Any], str | None]:
        """What is given, completed by the policy's version in force."""
        if policy_id is None:
            return document or {}, None if module is msgspec.UNSET else module
        written = (await self._admin.get(principal.tenant_id, policy_id)).written
        return (
            written.document if document is None else document,
            written.module if module is msgspec.UNSET else module,
        )

    async def _version(
        self, principal: Principal, policy_id: str, body: PolicyReplay
    ) -> PolicyVersion:
        if body.version is not None:
            if body.document is not None or body.module is not msgspec.UNSET:
                raise InvalidRequest("Give `version`, or a candidate.", param="version")
            number = _number("version", str(body.version), 2**31 - 1)
            written = (await self._admin.get(principal.tenant_id, policy_id, number)).written
            return version_of(policy_id, number, written.document, written.module)
        document, module = await self._candidate(principal, policy_id, body.document, body.module)
        return await self._admin.check(document, module, principal.tenant_id)

    async def _admitted(self, exchange: Exchange) -> Principal:
        """The caller. Raises: PolicyDenied, InvalidRequest."""
        principal = await exchange.admit(self._authenticator)
        require_admin(principal, "manage policies")
        return principal


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


def _given(value: Any) -> Any:
    return UNSET if value is msgspec.UNSET else value


def _by(exchange: Exchange, principal: Principal) -> Actor:
    context = exchange.context("policies")
    return Actor(f"key:{principal.key_id}", context.client_ip or "", context.request_id)


def _id(exchange: Exchange) -> str:
    policy_id: str = exchange.scope["path_params"]["policy_id"]
    return policy_id


def _query_value(exchange: Exchange, name: str) -> str | None:
    return given_in(exchange.scope["query_string"]).get(name)


def _number(name: str, text: str, largest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= largest):
        raise InvalidRequest(f"`{name}` must be between 1 and {largest}.", param=name)
    return int(text)


async def _reply(exchange: Exchange, document: Mapping[str, Any], status: int = 200) -> None:
    await exchange.reply(orjson.dumps(document), status=status)


def _operation(
    body: Any, reply: Any, parameters: Sequence[Mapping[str, Any]] = (), *, status: int = 200
) -> Operation:
    return Operation(
        body=body,
        reply=reply,
        parameters=parameters,
        status=status,
        errors=(*MANAGEMENT, 404, 409),
        error=ErrorReply,
    )
