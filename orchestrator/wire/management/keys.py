"""The management of virtual keys. Source: the appliance's OpenAPI document, `/v1/keys`."""

from __future__ import annotations

from typing import Any, cast, get_args

import msgspec
import orjson

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.limits import Limits
from orchestrator.core.plans import Plan
from orchestrator.core.request import RouteHint
from orchestrator.http.bodies import StrictBodyReader
from orchestrator.http.error_replies import Error
from orchestrator.http.exchange import Exchange
from orchestrator.http.intake import MAX_MANAGEMENT_BYTES
from orchestrator.http.openapi import MANAGEMENT, Operation, query_parameter
from orchestrator.http.queries import Query
from orchestrator.http.routes import Route
from orchestrator.keys.authenticator import Authenticator
from orchestrator.keys.queries import ALL_MODELS, KeyFilter, KeyState
from orchestrator.keys.service import Keys
from orchestrator.keys.values import MAX_PAGE, KeySpec, Patch
from orchestrator.wire.management.admin_call import (
    actor_of,
    admitted,
    path_id,
    reply,
    reply_nothing,
)
from orchestrator.wire.management.replies import VirtualKey, VirtualKeyList, VirtualKeyWithSecret

_STATES = get_args(KeyState)
_ONE = "/keys/{key_id}"


class VirtualKeyCreate(msgspec.Struct, kw_only=True):
    """The body of a new key."""

    label: str
    policy_id: str
    allowed_models: list[str] | None = None
    rpm_limit: int | None = None
    images_rpm_limit: int | None = None
    tpd_limit: int | None = None
    concurrency_limit: int | None = None
    plan: Plan | None = None
    deployment_id: str | None = None
    route_policy: RouteHint | None = None
    expires_at: int | None = None
    metadata: dict[str, str] | None = None


class VirtualKeyUpdate(msgspec.Struct, kw_only=True):
    """The body of a change: what is not there stays, null takes away."""

    label: str | msgspec.UnsetType = msgspec.UNSET
    policy_id: str | msgspec.UnsetType = msgspec.UNSET
    allowed_models: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    rpm_limit: int | msgspec.UnsetType | None = msgspec.UNSET
    images_rpm_limit: int | msgspec.UnsetType | None = msgspec.UNSET
    tpd_limit: int | msgspec.UnsetType | None = msgspec.UNSET
    concurrency_limit: int | msgspec.UnsetType | None = msgspec.UNSET
    plan: Plan | msgspec.UnsetType | None = msgspec.UNSET
    deployment_id: str | msgspec.UnsetType | None = msgspec.UNSET
    route_policy: RouteHint | msgspec.UnsetType | None = msgspec.UNSET
    expires_at: int | msgspec.UnsetType | None = msgspec.UNSET
    metadata: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET


class VirtualKeyRotate(msgspec.Struct, kw_only=True):
    """The body of a rotation, which may be missing."""

    overlap_s: int = 0


def wanted(body: VirtualKeyCreate) -> KeySpec:
    """The key that `body` asks for."""
    return KeySpec(
        label=body.label,
        policy_id=body.policy_id,
        allowed_models=ALL_MODELS if body.allowed_models is None else tuple(body.allowed_models),
        limits=Limits(
            rpm=body.rpm_limit,
            images_rpm=body.images_rpm_limit,
            tpd=body.tpd_limit,
            concurrency=body.concurrency_limit,
        ),
        plan=body.plan,
        deployment_id=body.deployment_id,
        route_policy=body.route_policy,
        expires_at=body.expires_at,
        metadata=body.metadata or {},
    )


def patch(body: VirtualKeyUpdate) -> Patch:
    """The change that `body` asks for."""
    given: dict[str, Any] = {
        name: value
        for name in body.__struct_fields__
        if (value := getattr(body, name)) is not msgspec.UNSET
    }
    if "allowed_models" in given:
        models = given["allowed_models"]
        given["allowed_models"] = ALL_MODELS if models is None else tuple(models)
    if "metadata" in given:
        given["metadata"] = given["metadata"] or {}
    return Patch(**given)


def routes(authenticator: Authenticator, keys: Keys) -> list[Route]:
    """The routes under `/keys`. All need an admin's key and see its own tenant only."""
    at = _Handlers(authenticator, keys)
    one = _operation(None, VirtualKey, 404)
    made = _operation(VirtualKeyCreate, VirtualKeyWithSecret, 409, status=201)
    listed = Operation(
        reply=VirtualKeyList,
        parameters=[query_parameter(*one) for one in _LISTING.items()],
        error=Error,
    )
    changed = _operation(VirtualKeyUpdate, VirtualKey, 404, 409)
    rotated = _operation(VirtualKeyRotate, VirtualKeyWithSecret, 404, 409, body_required=False)
    revoked = _operation(None, None, 404, status=204, description="Revoked.")
    return [
        Route("POST", "/keys", at.create, "create_key", "Create a virtual key", made),
        Route("GET", "/keys", at.list_all, "list_keys", "List virtual keys", listed),
        Route("GET", _ONE, at.retrieve, "retrieve_key", "Retrieve a virtual key", one),
        Route("PATCH", _ONE, at.change, "update_key", "Change a virtual key", changed),
        Route("POST", f"{_ONE}/rotate", at.rotate, "rotate_key", "Rotate a secret", rotated),
        Route("DELETE", _ONE, at.revoke, "revoke_key", "Revoke a virtual key", revoked),
    ]


class _Handlers:
    """One for each route."""

    def __init__(self, authenticator: Authenticator, keys: Keys) -> None:
        self._authenticator = authenticator
        self._keys = keys
        self._creations = StrictBodyReader(VirtualKeyCreate)
        self._patches = StrictBodyReader(VirtualKeyUpdate)
        self._rotations = StrictBodyReader(VirtualKeyRotate)

    async def create(self, exchange: Exchange) -> None:
        """A new key. Its secret is in this reply and nowhere else."""
        principal = await admitted(exchange, self._authenticator, "manage keys")
        body = self._creations.read(await exchange.body(MAX_MANAGEMENT_BYTES))
        view, secret = await self._keys.create(
            principal.tenant_id, wanted(body), actor_of(exchange, principal, "keys")
        )
        await reply(exchange, {**view.as_json(), "secret": secret}, status=201)

    async def list_all(self, exchange: Exchange) -> None:
        """The keys of the caller's tenant, the newest first: all, or a page of `limit`."""
        principal = await admitted(exchange, self._authenticator, "manage keys")
        query = Query(exchange.query_string)
        limit = query.number("limit", 0, least=1, most=MAX_PAGE) or None
        which = _which(query)
        after, has_more = query.text("after"), False
        parts: list[bytes] = []
        async for views, more in self._keys.page(
            principal.tenant_id, which, after=after, limit=limit
        ):
            # Printed part by part: ten thousand keys at once would hold up every other caller.
            has_more = more
            if views:
                parts.append(orjson.dumps([view.as_json() for view in views])[1:-1])
        data = b",".join(parts)
        end = b'],"has_more":%b}' % (b"true" if has_more else b"false")
        await exchange.reply(b'{"object":"list","data":[' + data + end)

    async def retrieve(self, exchange: Exchange) -> None:
        """One key of the caller's tenant."""
        principal = await admitted(exchange, self._authenticator, "manage keys")
        await reply(
            exchange,
            (await self._keys.get(principal.tenant_id, path_id(exchange, "key_id"))).as_json(),
        )

    async def change(self, exchange: Exchange) -> None:
        """Changes what the body names, and nothing else; null takes a value away."""
        principal = await admitted(exchange, self._authenticator, "manage keys")
        asked = patch(self._patches.read(await exchange.body(MAX_MANAGEMENT_BYTES)))
        by = actor_of(exchange, principal, "keys")
        view = await self._keys.patch(principal.tenant_id, path_id(exchange, "key_id"), asked, by)
        await reply(exchange, view.as_json())

    async def rotate(self, exchange: Exchange) -> None:
        """Gives the key a new secret; the old one stays good for `overlap_s` seconds."""
        principal = await admitted(exchange, self._authenticator, "manage keys")
        body = await exchange.body(MAX_MANAGEMENT_BYTES)
        overlap_s = self._rotations.read(body).overlap_s if body.strip() else 0
        by = actor_of(exchange, principal, "keys")
        view, secret = await self._keys.rotate(
            principal.tenant_id, path_id(exchange, "key_id"), overlap_s, by
        )
        await reply(exchange, {**view.as_json(), "secret": secret})

    async def revoke(self, exchange: Exchange) -> None:
        """Ends the key for good. Once more is no error."""
        principal = await admitted(exchange, self._authenticator, "manage keys")
        await self._keys.revoke(
            principal.tenant_id, path_id(exchange, "key_id"), actor_of(exchange, principal, "keys")
        )
        await reply_nothing(exchange)


def _which(query: Query) -> KeyFilter:
    """Raises: InvalidRequest."""
    status = query.text("status")
    if status is not None and status not in _STATES:
        raise InvalidRequest(
            f"`status` must be one of {', '.join(_STATES)}; `{status[:60]}` was given.",
            param="status",
        )
    moments = {name: query.moment(name) for name in ("last_used_before", "last_used_after")}
    return KeyFilter(
        label=query.text("label"),
        status=cast("KeyState | None", status),
        policy_id=query.text("policy_id"),
        # Uses are noted in whole seconds: one in the second of a moment is not before it.
        **{name: None if at is None else -(-at // 1000) for name, at in moments.items()},
    )


_LISTING = {
    "limit": f"at most so many keys, 1 to {MAX_PAGE}; without it all of them",
    "after": "the last key already seen",
    "label": "keys with this text in their label, in upper or lower case",
    "status": "active, expired or revoked",
    "policy_id": "keys with this policy",
    "last_used_before": "not used since then, or never: seconds since the epoch, or RFC 3339",
    "last_used_after": "used then or later",
}


def _operation(body: Any, reply: Any, *errors: int, **members: Any) -> Operation:
    return Operation(body=body, reply=reply, errors=(*MANAGEMENT, *errors), error=Error, **members)
