"""`orchestrator tenants create | list | limits`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.cli.arguments import LIMITS, add_json, add_limits, comma_list, label
from orchestrator.cli.output import time_text, write_json, write_table
from orchestrator.cli.stores import cli_actor, fail, opened

if TYPE_CHECKING:
    from orchestrator.keys.tenant_service import Tenants
    from orchestrator.settings import Settings
    from orchestrator.store.database import Database
    from orchestrator.store.tables import Tenant

_CLEARABLE = (*LIMITS, "plan")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands about tenants."""
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
    """Creates a tenant. Raises: StoreError, SettingsError."""
    if parsed.name.startswith("ten_"):
        return fail("a tenant's name must not look like an id")
    async with opened(settings) as database:
        tenant, is_new = await _service(database).ensure(parsed.name, cli_actor())
    if not is_new:
        return fail(f"there is a tenant `{parsed.name}` already ({tenant.id})")
    if parsed.json:
        write_json(_as_json(tenant))
    else:
        sys.stdout.write(f"Tenant `{tenant.name}` is new ({tenant.id}).\n")
    return 0


async def _list(settings: Settings, parsed: argparse.Namespace) -> int:
    """Lists the tenants. Raises: StoreError, SettingsError."""
    async with opened(settings) as database:
        documents = [_as_json(tenant) for tenant in await _service(database).listed()]
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
    """Changes a tenant's limits; running servers apply this within `store.key_cache_s`.

    Raises: StoreError, SettingsError.
    """
    from orchestrator.core.errors import NotFound

    for name in parsed.clear:
        if name not in _CLEARABLE:
            return fail(f"`{name}` cannot be cleared; these can: {', '.join(_CLEARABLE)}")
    changes: dict[str, Any] = dict.fromkeys(parsed.clear)
    members = (*_CLEARABLE, "api_disabled")
    changes |= {name: value for name in members if (value := getattr(parsed, name)) is not None}
    try:
        async with opened(settings) as database:
            tenant = await _service(database).change(parsed.tenant, changes, cli_actor())
    except NotFound:
        return fail(f"there is no tenant `{parsed.tenant}`")
    document = _as_json(tenant)
    if parsed.json:
        write_json(document)
    else:
        sys.stdout.write(f"Tenant `{document['name']}` has these limits:\n")
        write_table(("LIMIT", "VALUE"), [(n, str(document[n] or "-")) for n in _CLEARABLE])
    return 0


def _service(database: Database) -> Tenants:
    # Imported only where it is used, like all imports that take time.
    from orchestrator.keys.tenant_service import Tenants

    return Tenants(database)


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
