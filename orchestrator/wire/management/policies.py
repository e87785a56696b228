"""The management of policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from orchestrator.core.actor import UNSET
from orchestrator.core.errors import (
    InvalidRequest,
)
from orchestrator.http.bodies import StrictBodyReader
from orchestrator.http.error_replies import ErrorReply
from orchestrator.http.exchange import Exchange
from orchestrator.http.intake import MAX_MANAGEMENT_BYTES
from orchestrator.http.openapi import MANAGEMENT, Operation, query_parameter
from orchestrator.http.queries import given_in
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.principal import Principal
from orchestrator.policy.question import PolicyVersion, version_of
from orchestrator.policy.service import MAX_REPLAYED, Change, PolicyAdmin
from orchestrator.policy.views import decision_object, recorded_object, replay_object
from orchestrator.wire.management.admin_call import (
    actor_of,
    admitted,
    path_id,
    reply,
    reply_nothing,
)
from orchestrator.wire.management.replies import (
    Policy,
    PolicyDecisionList,
    PolicyList,
    PolicyReplayResult,
    PolicyTestResult,
)

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


def routes(authenticator: Authenticator, admin: PolicyAdmin) -> list[Route]:
    """The routes under `/policies`. All need an admin's key."""
    handlers = _Handlers(authenticator, admin)
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
    ]  # fmt: skip


class _Handlers:
    """One method for each route."""

    def __init__(self, authenticator: Authenticator, admin: PolicyAdmin) -> None:
        self._authenticator = authenticator
        self._admin = admin
        self._creations = StrictBodyReader(PolicyCreate)
        self._patches = StrictBodyReader(PolicyUpdate)
        self._tests = StrictBodyReader(PolicyTest)
        self._replays = StrictBodyReader(PolicyReplay)

    async def create(self, exchange: Exchange) -> None:
        """A new policy, in force for the keys that are given it."""
        principal = await admitted(exchange, self._authenticator, "manage policies")
        body = self._creations.read(await exchange.body(MAX_MANAGEMENT_BYTES))
        view = await self._admin.create(
            principal.tenant_id,
            body.name,
            body.document,
            body.module,
            actor_of(exchange, principal, "policies"),
        )
        await reply(exchange, view.as_json(), status=201)

    async def listed(self, exchange: Exchange) -> None:
        """The policies of the caller's tenant, each with the version in force."""
        principal = await admitted(exchange, self._authenticator, "manage policies")
        views = await self._admin.listed(principal.tenant_id)
        listing = [view.as_json() for view in views]
        await reply(exchange, {"object": "list", "data": listing, "has_more": False})

    async def retrieve(self, exchange: Exchange) -> None:
        """One policy of the caller's tenant, with the version in force or the one asked for."""
        principal = await admitted(exchange, self._authenticator, "manage policies")
        text = _query_value(exchange, "version")
        number = None if text is None else _number("version", text, 2**31 - 1)
        view = await self._admin.get(principal.tenant_id, path_id(exchange, "policy_id"), number)
        await reply(exchange, view.as_json())

    async def change(self, exchange: Exchange) -> None:
        """Writes a new version, or puts one that exists in force or in the shadow."""
        principal = await admitted(exchange, self._authenticator, "manage policies")
        body = self._patches.read(await exchange.body(MAX_MANAGEMENT_BYTES))
        change = Change(
            name=_given(body.name),
            document=_given(body.document),
            module=_given(body.module),
            shadow=body.shadow,
            active=_given(body.active_version),
            candidate=_given(body.candidate_version),
        )
        by = actor_of(exchange, principal, "policies")
        view = await self._admin.update(
            principal.tenant_id, path_id(exchange, "policy_id"), change, by
        )
        await reply(exchange, view.as_json())

    async def delete(self, exchange: Exchange) -> None:
        """Ends a policy that no key has."""
        principal = await admitted(exchange, self._authenticator, "manage policies")
        await self._admin.delete(
            principal.tenant_id,
            path_id(exchange, "policy_id"),
            actor_of(exchange, principal, "policies"),
        )
        await reply_nothing(exchange)

    async def test(self, exchange: Exchange) -> None:
        """What a candidate says to made-up inputs; what it leaves out is the policy's."""
        principal = await admitted(exchange, self._authenticator, "manage policies")
        body = self._tests.read(await exchange.body(MAX_MANAGEMENT_BYTES))
        named = "policy_id" in exchange.scope["path_params"]
        policy_id = path_id(exchange, "policy_id") if named else None
        document, module = await self._candidate(principal, policy_id, body.document, body.module)
        answers = await self._admin.test(
            document, module, body.inputs, tenant_id=principal.tenant_id
        )
        results = [decision_object(answer) for answer in answers]
        await reply(exchange, {"object": "policy_test", "data": results})

    async def replay(self, exchange: Exchange) -> None:
        """The recorded decisions that a candidate would change."""
        principal = await admitted(exchange, self._authenticator, "manage policies")
        body = self._replays.read(await exchange.body(MAX_MANAGEMENT_BYTES))
        if not 1 <= body.limit <= MAX_REPLAYED:
            raise InvalidRequest(f"`limit` must be between 1 and {MAX_REPLAYED}.", param="limit")
        if not 0 <= body.since < 2**40:
            raise InvalidRequest("`since` must be Unix seconds.", param="since")
        candidate = await self._version(principal, path_id(exchange, "policy_id"), body)
        checked, changed = await self._admin.replay(
            principal.tenant_id,
            path_id(exchange, "policy_id"),
            candidate,
            since=body.since,
            most=body.limit,
        )
        await reply(exchange, replay_object(checked, changed))

    async def decisions(self, exchange: Exchange) -> None:
        """The newest recorded decisions; with `differing=true` where a candidate said otherwise."""
        principal = await admitted(exchange, self._authenticator, "manage policies")
        most = _number(
            "limit", _query_value(exchange, "limit") or str(_DEFAULT_LISTED), _MAX_LISTED
        )
        differing = _query_value(exchange, "differing") == "true"
        found = await self._admin.decisions(
            principal.tenant_id, path_id(exchange, "policy_id"), differing=differing, most=most
        )
        listing = [recorded_object(one) for one in found]
        await reply(exchange, {"object": "list", "data": listing, "has_more": False})

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


def _given(value: Any) -> Any:
    return UNSET if value is msgspec.UNSET else value


def _query_value(exchange: Exchange, name: str) -> str | None:
    return given_in(exchange.scope["query_string"]).get(name)


def _number(name: str, text: str, largest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= largest):
        raise InvalidRequest(f"`{name}` must be between 1 and {largest}.", param=name)
    return int(text)


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
