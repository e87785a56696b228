"""`orchestrator tenants create | list | limits`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.cli.arguments import LIMITS, add_json, add_limits, comma_list, label
from orchestrator.cli.output import time_text, write_json, write_table
from orchestrator.cli.stores import ensured_tenant, fail, opened

if TYPE_CHECKING:
    from orchestrator.settings import Settings
    from orchestrator.store.tables import Tenant

_CLEARABLE = (*LIMITS, "plan")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The commands about tenants."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    create = commands.add_parser("create", help="make a tenant")
    create.add_argument("name", metavar="NAME", type=label)
    add_json(create)
    create.set_defaults(command=lambda settings, parsed: asyncio.run(_create(settings, parsed)))

    listing = commands.add_parser("list", help="list the tenants and their limits")
    add_json(listing)
    listing.set_defaults(command=lambda settings, parsed: asyncio.run(_list(settings, parsed)))

    limits = commands.add_parser("limits", help="say how much a tenant may use altogether")
    limits.add_argument("tenant", metavar="TENANT", help="name or id")
    add_limits(limits)
    limits.add_argument(
        "--clear",
        type=comma_list,
        default=(),
        metavar="A,B",
        help=f"take away: {', '.join(_CLEARABLE)}",
    )
    switch = limits.add_mutually_exclusive_group()
    switch.add_argument(
        "--disable-api",
        dest="api_disabled",
        action="store_const",
        const=True,
        help="refuse every call of the tenant's keys",
    )
    switch.add_argument(
        "--enable-api",
        dest="api_disabled",
        action="store_const",
        const=False,
        help="let them in again",
    )
    add_json(limits)
    limits.set_defaults(command=lambda settings, parsed: asyncio.run(_limits(settings, parsed)))


async def _create(settings: Settings, parsed: argparse.Namespace) -> int:
    """Makes a tenant. Raises: StoreError, SettingsError."""
    if parsed.name.startswith("ten_"):
        return fail("a tenant's name must not look like an id")
    async with opened(settings) as database:
        tenant, is_new = await ensured_tenant(database, parsed.name)
    if not is_new:
        return fail(f"there is a tenant `{parsed.name}` already ({tenant.id})")
    if parsed.json:
        write_json(_as_json(tenant))
    else:
        sys.stdout.write(f"Tenant `{tenant.name}` is new ({tenant.id}).\n")
    return 0


async def _list(settings: Settings, parsed: argparse.Namespace) -> int:
    """Lists the tenants. Raises: StoreError, SettingsError."""
    from orchestrator.keys import tenants

    async with opened(settings) as database, database.reading() as session:
        documents = [_as_json(tenant) for tenant in await tenants.listed(session)]
    if parsed.json:
        write_json({"object": "list", "data": documents})
        return 0
    header = ("ID", "NAME", "PLAN", "RPM", "IMAGES RPM", "TPD", "CONCURRENCY", "API", "CREATED")
    write_table(
        header,
        [
            (
                document["id"],
                document["name"],
                *(str(document[name] or "-") for name in ("plan", *LIMITS)),
                "disabled" if document["api_disabled"] else "enabled",
                time_text(document["created_at"]),
            )
            for document in documents
        ],
    )
    return 0


async def _limits(settings: Settings, parsed: argparse.Namespace) -> int:
    """Changes a tenant's limits; running servers follow within `store.key_cache_s`.

    Raises: StoreError, SettingsError.
    """
    from orchestrator.audit import log as audit_log
    from orchestrator.keys import tenants

    for name in parsed.clear:
        if name not in _CLEARABLE:
            return fail(f"`{name}` cannot be cleared; these can: {', '.join(_CLEARABLE)}")
    changes: dict[str, Any] = dict.fromkeys(parsed.clear)
    members = (*_CLEARABLE, "api_disabled")
    changes |= {name: value for name in members if (value := getattr(parsed, name)) is not None}
    async with opened(settings) as database, database.unit_of_work() as session:
        known = await tenants.find(session, parsed.tenant)
        if known is None:
            return fail(f"there is no tenant `{parsed.tenant}`")
        await session.refresh(known, with_for_update=True)
        before = _as_json(known)
        for name, value in changes.items():
            setattr(known, name, value)
        await session.flush()
        document = _as_json(known)
        changed = [name for name in document if document[name] != before[name]]
        if changed:
            act = audit_log.Act(
                actor=audit_log.cli_actor(),
                action="tenant.patch",
                target=known.id,
                tenant_id=known.id,
                before={name: before[name] for name in changed},
                after={name: document[name] for name in changed},
            )
            await audit_log.note(session, act)
    if parsed.json:
        write_json(document)
    else:
        sys.stdout.write(f"Tenant `{document['name']}` has these limits:\n")
        write_table(("LIMIT", "VALUE"), [(n, str(document[n] or "-")) for n in _CLEARABLE])
    return 0


def _as_json(tenant: Tenant) -> dict[str, Any]:
    return {
        "id": tenant.id,
        "object": "tenant",
        "name": tenant.name,
        "plan": tenant.plan,
        "rpm_limit": tenant.rpm_limit,
        "images_rpm_limit": tenant.images_rpm_limit,
        "tpd_limit": tenant.tpd_limit,
        "concurrency_limit": tenant.concurrency_limit,
        "api_disabled": tenant.api_disabled,
        "created_at": tenant.created_at,
    }
