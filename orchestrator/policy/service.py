"""The rules for managing policies, for HTTP and the command line.

Each change is one transaction with its audit line; it takes effect in this process at once.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.audit import log as audit_log
from orchestrator.core.actor import UNSET, Actor, Unset
from orchestrator.core.errors import Conflict, InvalidRequest, NotFound
from orchestrator.policy import Decision, decisions
from orchestrator.policy import queries as policy_queries
from orchestrator.policy.candidates import Candidates
from orchestrator.policy.decisions import RecordedDecision
from orchestrator.policy.engine import RegoPolicies
from orchestrator.policy.queries import NewVersion, PolicyHead, WrittenVersion
from orchestrator.policy.question import PolicyVersion, from_facts, version_of
from orchestrator.store.database import Database, Session, turn
from orchestrator.store.tables import DEFAULT_POLICY_ID

MAX_REPLAYED = 10_000
MAX_INPUTS = 1000
_MAX_INPUT_BYTES = 65_536
_MAX_NAME = 200
_MAX_TRIES = 5
_ID = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Change:
    """The requested changes. A `document` or `module` makes a new version, in force unless
    `shadow`.

    `active` puts an older version, or the candidate, in force; a `candidate` of `None` ends the
    shadow.
    """

    name: str | Unset = UNSET
    document: Mapping[str, Any] | Unset = UNSET
    module: str | Unset | None = UNSET
    shadow: bool = False
    active: int | Unset = UNSET
    candidate: int | Unset | None = UNSET


@dataclass(frozen=True, slots=True)
class PolicyView:
    """A policy as it is shown to its managers, with one of its versions."""

    id: str
    tenant_id: str
    head: PolicyHead
    written: WrittenVersion

    def as_json(self) -> dict[str, Any]:
        """Returns the `policy` object of the HTTP interface and of the command line."""
        return {
            "id": self.id,
            "object": "policy",
            "tenant_id": self.tenant_id,
            "name": self.head.name,
            "active_version": self.head.active,
            "candidate_version": self.head.candidate,
            "created_at": self.head.created_at,
            "version": self.written.version,
            "document": dict(self.written.document),
            "module": self.written.module,
            "version_created_at": self.written.created_at,
            "version_created_by": self.written.created_by,
        }


@dataclass(frozen=True, slots=True)
class Changed:
    """A recorded decision that a candidate would change."""

    recorded: RecordedDecision
    after: Decision


class PolicyAdmin:
    """Creates, shows, changes, tries and deletes policies of a tenant. Raises: StoreError."""

    def __init__(
        self,
        database: Database,
        candidates: Candidates,
        engine: RegoPolicies | None = None,
        *,
        modules: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`engine` is that of this process; it drops the policies that are changed here.

        `candidates` evaluates versions that are not in force yet.
        Without `modules`, policies cannot have a module, because an OPA server evaluates them.
        """
        self._database = database
        self._candidates = candidates
        self._engine = engine
        self._modules = modules
        self._now = now

    async def create(
        self, tenant_id: str, name: str, document: Mapping[str, Any], module: str | None, by: Actor
    ) -> PolicyView:
        """Creates a policy and puts its first version in force. Raises: InvalidRequest."""
        name = _checked_name(name)
        await self.check(document, module, tenant_id)
        new = NewVersion(document, module or None, by.actor, int(self._now()))
        async with self._database.unit_of_work() as session:
            policy_id = await policy_queries.create(session, tenant_id, name, new)
            view = await _view(session, tenant_id, policy_id)
            await audit_log.note(
                session, audit_log.act_on(view, "policy.create", by, after=view.as_json())
            )
        self._forget(tenant_id, policy_id)
        return view

    async def listed(self, tenant_id: str) -> list[PolicyView]:
        """Returns all policies of the tenant."""
        async with self._database.reading() as session:
            heads = await policy_queries.listed(session, tenant_id)
            return [await _view(session, tenant_id, policy_id) for policy_id, _ in heads]

    async def get(self, tenant_id: str, policy_id: str, number: int | None = None) -> PolicyView:
        """Returns one policy, with the version in force or another one. Raises: NotFound."""
        async with self._database.reading() as session:
            return await _view(session, tenant_id, policy_id, number)

    async def update(self, tenant_id: str, policy_id: str, change: Change, by: Actor) -> PolicyView:
        """Applies `change` and returns the policy. Raises: InvalidRequest, NotFound."""
        makes_version = change.document is not UNSET or change.module is not UNSET
        if makes_version and not (change.active is UNSET and change.candidate is UNSET):
            raise InvalidRequest(
                "`active_version` and `candidate_version` choose among versions that exist; "
                "`document` and `module` make a new one."
            )
        if change.shadow and not makes_version:
            raise InvalidRequest("`shadow` is for a new version.", param="shadow")
        if change == Change():
            raise InvalidRequest("There is nothing to change.")
        for _ in range(_MAX_TRIES):
            merged = _merged(await self.get(tenant_id, policy_id), change)
            if makes_version:
                await self.check(*merged, tenant_id)
            after = await self._written(tenant_id, policy_id, change, merged, makes_version, by)
            if after is not None:
                self._forget(tenant_id, policy_id)
                return after
        raise Conflict(f"The policy `{policy_id}` is being changed by others; try again.")

    async def _written(
        self,
        tenant_id: str,
        policy_id: str,
        change: Change,
        merged: _Merged,
        makes_version: bool,
        by: Actor,
    ) -> PolicyView | None:
        """Applies `change`; returns `None` if the policy has changed since `merged` was checked."""
        new = NewVersion(merged[0], merged[1], by.actor, int(self._now()))
        async with self._database.unit_of_work() as session:
            await turn(session, f"policy {tenant_id} {policy_id}")
            before = await _view(session, tenant_id, policy_id)
            if makes_version and _merged(before, change) != merged:
                return None
            active, candidate = await _versions(
                session, before, change, new if makes_version else None
            )
            name = before.head.name if change.name is UNSET else _checked_name(change.name)
            await policy_queries.update(
                session, tenant_id, policy_id, name=name, active=active, candidate=candidate
            )
            after = await _view(session, tenant_id, policy_id)
            action = "policy.update" if makes_version else "policy.activate"
            act = audit_log.act_on(
                after, action, by, before=before.as_json(), after=after.as_json()
            )
            await audit_log.note(session, act)
        return after

    async def delete(self, tenant_id: str, policy_id: str, by: Actor) -> None:
        """Deletes a policy. Raises: NotFound, Conflict while keys have it."""
        if policy_id == DEFAULT_POLICY_ID:
            raise Conflict("The default policy cannot be deleted: keys begin with it.")
        async with self._database.unit_of_work() as session:
            await turn(session, f"policy {tenant_id} {policy_id}")
            view = await _view(session, tenant_id, policy_id)
            # The row is locked before the keys are counted, so that no key gets the policy now.
            await policy_queries.delete(session, tenant_id, policy_id, int(self._now()))
            if used := await policy_queries.keys_using(session, tenant_id, policy_id):
                raise Conflict(f"The policy `{policy_id}` is in use by {used} key(s).")
            await audit_log.note(
                session, audit_log.act_on(view, "policy.delete", by, before=view.as_json())
            )
        self._forget(tenant_id, policy_id)

    async def test(
        self,
        document: Mapping[str, Any],
        module: str | None,
        inputs: Sequence[Mapping[str, Any]],
        *,
        tenant_id: str,
    ) -> list[Decision]:
        """Returns a candidate's decisions for given inputs. Raises: InvalidRequest."""
        if not 1 <= len(inputs) <= MAX_INPUTS:
            raise InvalidRequest(f"`inputs` must hold 1 to {MAX_INPUTS}.", param="inputs")
        for index, one in enumerate(inputs):
            if (size := len(json.dumps(one))) > _MAX_INPUT_BYTES:
                raise InvalidRequest(
                    f"`inputs[{index}]` may have {_MAX_INPUT_BYTES} bytes at most; it has {size}.",
                    param=f"inputs[{index}]",
                )
        version = await self.check(document, module, tenant_id)
        now = self._now()
        asked = [
            from_facts(
                {"model": "", "at": now, **one, "tenant_id": tenant_id}, where=f"inputs[{index}]"
            )
            for index, one in enumerate(inputs)
        ]
        return await self._candidates.judge(version, asked, tenant_id)

    async def replay(
        self,
        tenant_id: str,
        policy_id: str,
        candidate: PolicyVersion,
        *,
        since: int = 0,
        most: int = MAX_REPLAYED,
    ) -> tuple[int, list[Changed]]:
        """Returns how many recorded decisions were tried, and those that `candidate` would change.

        `since` is in seconds since the epoch.
        """
        async with self._database.reading() as session:
            await _view(session, tenant_id, policy_id)
            found = await decisions.listed(
                session, tenant_id, policy_id, since=since * 1000, most=min(most, MAX_REPLAYED)
            )
        asked = [from_facts(one.facts) for one in found]
        answers = await self._candidates.judge(candidate, asked, tenant_id)
        changed = [
            Changed(one, answer)
            for one, answer in zip(found, answers, strict=True)
            if (one.allow, one.rule) != (answer.allow, answer.rule)
        ]
        return len(found), changed

    async def decisions(
        self, tenant_id: str, policy_id: str, *, differing: bool, most: int
    ) -> list[RecordedDecision]:
        """Returns the newest recorded decisions; `differing`: only where the shadow differs."""
        async with self._database.reading() as session:
            await _view(session, tenant_id, policy_id)
            return await decisions.listed(
                session, tenant_id, policy_id, differing=differing, most=most
            )

    async def check(
        self, document: Mapping[str, Any], module: str | None, tenant_id: str
    ) -> PolicyVersion:
        """Returns a checked candidate. Raises: InvalidRequest, PolicyUnavailable."""
        version = version_of("pol_candidate", 0, document, module)
        if version.module is not None and not self._modules:
            raise InvalidRequest(
                "`module` cannot be kept here: this appliance asks an OPA server "
                "(`policy.engine`), and modules are loaded there.",
                param="module",
            )
        await self._candidates.check(version, tenant_id)
        return version

    def _forget(self, tenant_id: str, policy_id: str) -> None:
        if self._engine is not None:
            self._engine.forget(tenant_id, policy_id)


_Merged = tuple[Mapping[str, Any], str | None]


def _merged(before: PolicyView, change: Change) -> _Merged:
    """Returns document and module after `change`."""
    written = before.written
    return (
        written.document if change.document is UNSET else change.document,
        (written.module if change.module is UNSET else change.module) or None,
    )


async def _view(
    session: Session, tenant_id: str, policy_id: str, number: int | None = None
) -> PolicyView:
    """Raises: NotFound; a policy of another tenant is one that does not exist."""
    head = (
        await policy_queries.head(session, tenant_id, policy_id)
        if _ID.fullmatch(policy_id)
        else None
    )
    if head is None:
        raise NotFound(f"There is no policy `{policy_id[:40]}`.")
    version = head.active if number is None else number
    written = await policy_queries.version(session, tenant_id, policy_id, version)
    if written is None:
        raise NotFound(f"The policy `{policy_id}` has no version {version}.")
    return PolicyView(policy_id, tenant_id, head, written)


async def _versions(
    session: Session, before: PolicyView, change: Change, new: NewVersion | None
) -> tuple[int, int | None]:
    """Returns the versions in force and in shadow after `change`."""
    active, candidate = before.head.active, before.head.candidate
    if new is not None:
        made = await policy_queries.add_version(session, before.tenant_id, before.id, new)
        return (active, made) if change.shadow else (made, candidate)
    if change.active is not UNSET:
        active = await _existing(session, before, "active_version", change.active)
        candidate = None if candidate == active else candidate
    if change.candidate is not UNSET:
        candidate = change.candidate
        if candidate is not None:
            await _existing(session, before, "candidate_version", candidate)
    return active, candidate


async def _existing(session: Session, view: PolicyView, param: str, number: int) -> int:
    known = 0 < number < 2**31
    if (
        not known
        or (await policy_queries.version(session, view.tenant_id, view.id, number)) is None
    ):
        raise InvalidRequest(f"`{param}`: there is no version {number}.", param=param)
    return number


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= _MAX_NAME or not name.isprintable():
        raise InvalidRequest(
            f"`name` must have 1 to {_MAX_NAME} printable characters.", param="name"
        )
    return name
