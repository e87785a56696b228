"""`orchestrator keys create | list | show | patch | rotate | revoke | explain`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from orchestrator.cli import explain
from orchestrator.cli.arguments import (
    LIMITS,
    add_json,
    add_limits,
    comma_list,
    label,
    moment,
    pair,
    rfc3339,
    seconds,
)
from orchestrator.cli.output import time_text, write_json, write_table
from orchestrator.cli.stores import cli_actor, fail, opened

if TYPE_CHECKING:
    from orchestrator.keys.service import Keys
    from orchestrator.keys.values import KeyView
    from orchestrator.settings import Settings
    from orchestrator.store.database import Database

_CLEARABLE = (*LIMITS, "plan", "route_policy", "expires_at", "metadata")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands about keys."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    create = commands.add_parser("create", help="make a key and show its secret once")
    create.add_argument("--label", type=label, required=True, help="what the key is for")
    create.add_argument("--tenant", type=label, help="name or id; a new name makes a new tenant")
    create.add_argument("--admin", action="store_true", help="may manage keys as well")
    _add_members(create)
    create.set_defaults(command=_run(_create))

    listing = commands.add_parser("list", help="list keys, all of them or some")
    _add_choice(listing)
    listing.set_defaults(command=_run(_list))

    show = _about_one(commands, "show", "show everything about a key but its secret")
    show.set_defaults(command=_run(_show))

    patch = _about_one(commands, "patch", "change a key")
    patch.add_argument("--label", type=label, help="what the key is for")
    _add_members(patch, with_json=False)
    patch.add_argument(
        "--clear",
        type=comma_list,
        default=(),
        metavar="A,B",
        help=f"take away: {', '.join(_CLEARABLE)}",
    )
    patch.set_defaults(command=_run(_patch))

    rotate = _about_one(commands, "rotate", "give a key a new secret and show it once")
    rotate.add_argument(
        "--overlap-s", type=seconds, default=0, metavar="N", help="how long the old one stays good"
    )
    rotate.set_defaults(command=_run(_rotate))

    revoke = _about_one(commands, "revoke", "end a key for good")
    revoke.set_defaults(command=_run(_revoke))

    told = commands.add_parser("explain", help="what a call would meet, without making it")
    explain.add_arguments(told)
    told.set_defaults(command=explain.explain)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant", type=label, help="name or id; default: of every tenant")
    parser.add_argument("--label", metavar="TEXT", help="with this text in their label")
    parser.add_argument("--status", choices=("active", "expired", "revoked"))
    parser.add_argument("--policy-id", metavar="ID", help="with this policy")
    for name, meaning in (
        ("before", "not used since then, or never"),
        ("after", "used since then"),
    ):
        parser.add_argument(f"--last-used-{name}", type=moment, metavar="TIME", help=meaning)
    add_json(parser)


def _about_one(commands: Any, name: str, meaning: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=meaning)
    command.add_argument("id", metavar="ID", help="as `keys list` shows it")
    add_json(command)
    return command


def _add_members(parser: argparse.ArgumentParser, *, with_json: bool = True) -> None:
    parser.add_argument("--policy-id", metavar="ID", help="default: pol_default")
    parser.add_argument("--models", type=comma_list, metavar="A,B", help="default: all")
    add_limits(parser)
    parser.add_argument("--route-policy", choices=("local-only", "cloud-ok"))
    parser.add_argument(
        "--expires-at", type=rfc3339, metavar="TIME", help="such as 2027-01-31T12:00:00Z"
    )
    parser.add_argument(
        "--metadata", type=pair, action="append", metavar="NAME=VALUE", help="may be repeated"
    )
    if with_json:
        add_json(parser)


_Work = Callable[["Settings", "Database", "Keys", argparse.Namespace], Awaitable[int]]


def _run(work: _Work) -> Callable[[Settings, argparse.Namespace], int]:
    """Returns a command that runs `work` on the opened store."""

    async def run(settings: Settings, parsed: argparse.Namespace) -> int:
        from orchestrator.core.errors import GatewayError, NotFound
        from orchestrator.keys.secret import load_pepper
        from orchestrator.keys.service import Keys

        async with opened(settings) as database:
            try:
                return await work(settings, database, Keys(database, load_pepper(settings)), parsed)
            except NotFound:
                return fail(f"there is no key `{parsed.id}`")
            except GatewayError as error:
                return fail(error.message)

    return lambda settings, parsed: asyncio.run(run(settings, parsed))


async def _create(
    settings: Settings, database: Database, keys: Keys, parsed: argparse.Namespace
) -> int:
    """Creates a key. Its secret is shown only here."""
    from orchestrator.core.limits import Limits
    from orchestrator.keys import tenants
    from orchestrator.keys.tenant_service import Tenants
    from orchestrator.keys.values import KeySpec

    models = parsed.models or ("*",)
    _note_unknown_models(settings, models)
    name = parsed.tenant or settings.bootstrap.tenant
    if name.startswith("ten_"):
        async with database.reading() as session:
            if await tenants.find(session, name) is None:
                return fail(f"there is no tenant `{name}`")
    tenant, is_new = await Tenants(database).ensure(name, cli_actor())
    wanted = KeySpec(
        label=parsed.label,
        policy_id=parsed.policy_id or "pol_default",
        scope="admin" if parsed.admin else "inference",
        allowed_models=models,
        limits=Limits(
            rpm=parsed.rpm_limit,
            images_rpm=parsed.images_rpm_limit,
            tpd=parsed.tpd_limit,
            concurrency=parsed.concurrency_limit,
        ),
        plan=parsed.plan,
        route_policy=parsed.route_policy,
        expires_at=parsed.expires_at,
        metadata=dict(parsed.metadata or ()),
    )
    key, secret = await keys.create(tenant.id, wanted, cli_actor())
    if is_new and not parsed.json:
        sys.stdout.write(f"Tenant `{name}` is new ({tenant.id}).\n")
    return _show_secret(key, secret, parsed)


async def _list(
    settings: Settings, database: Database, keys: Keys, parsed: argparse.Namespace
) -> int:
    """Lists the keys of one tenant, or of all."""
    del settings
    from orchestrator.keys import tenants
    from orchestrator.keys.queries import KeyFilter

    async with database.reading() as session:
        names = {tenant.id: tenant.name for tenant in await tenants.listed(session)}
        only = await tenants.find(session, parsed.tenant) if parsed.tenant else None
    if parsed.tenant and only is None:
        return fail(f"there is no tenant `{parsed.tenant}`")
    which = KeyFilter(
        label=parsed.label,
        status=parsed.status,
        policy_id=parsed.policy_id,
        last_used_before=parsed.last_used_before,
        last_used_after=parsed.last_used_after,
    )
    views = await keys.everything(only.id if only else None, which)
    if parsed.json:
        write_json({"object": "list", "data": [view.as_json() for view in views]})
        return 0
    header = ("ID", "LABEL", "TENANT", "KEY", "SCOPE", "MODELS", "STATUS")
    write_table(
        (*header, "CREATED", "EXPIRES", "LAST USED"),
        [
            (
                view.id,
                view.label,
                names[view.tenant_id],
                f"{view.prefix}_...{view.last4}",
                view.scope,
                ",".join(view.allowed_models),
                view.status,
                time_text(view.created_at),
                time_text(view.expires_at),
                time_text(view.last_used_at),
            )
            for view in views
        ],
    )
    return 0


async def _show(
    settings: Settings, database: Database, keys: Keys, parsed: argparse.Namespace
) -> int:
    """Shows one key."""
    del settings, database
    view = await keys.get(None, parsed.id)
    if parsed.json:
        write_json(view.as_json())
    else:
        _write_members(view)
    return 0


async def _patch(
    settings: Settings, database: Database, keys: Keys, parsed: argparse.Namespace
) -> int:
    """Changes only the named members."""
    del database
    from orchestrator.keys.values import Patch

    for name in parsed.clear:
        if name not in _CLEARABLE:
            return fail(f"`{name}` cannot be cleared; these can: {', '.join(_CLEARABLE)}")
    members = (*LIMITS, "label", "policy_id", "plan", "route_policy", "expires_at")
    changes: dict[str, Any] = {
        name: value for name in members if (value := getattr(parsed, name)) is not None
    }
    if parsed.models is not None:
        _note_unknown_models(settings, parsed.models)
        changes["allowed_models"] = parsed.models
    if parsed.metadata is not None:
        changes["metadata"] = dict(parsed.metadata)
    if both := changes.keys() & set(parsed.clear):
        return fail(f"`{min(both)}` is given and cleared; do one of them")
    changes |= {name: {} if name == "metadata" else None for name in parsed.clear}
    if not changes:
        return fail("there is nothing to change; see `orchestrator keys patch --help`")
    view = await keys.patch(None, parsed.id, Patch(**changes), cli_actor())
    if parsed.json:
        write_json(view.as_json())
    else:
        sys.stdout.write(f"Key {view.id} ({view.label}) is changed.\n")
    return 0


async def _rotate(
    settings: Settings, database: Database, keys: Keys, parsed: argparse.Namespace
) -> int:
    """Gives a key a new secret. It is shown only here."""
    del settings, database
    view, secret = await keys.rotate(None, parsed.id, parsed.overlap_s, cli_actor())
    return _show_secret(view, secret, parsed)


async def _revoke(
    settings: Settings, database: Database, keys: Keys, parsed: argparse.Namespace
) -> int:
    """Revokes a key; running servers apply this within `store.key_cache_s`."""
    del settings, database
    view, is_new = await keys.revoke(None, parsed.id, cli_actor())
    if parsed.json:
        write_json(view.as_json())
    elif is_new:
        sys.stdout.write(f"Key {view.id} ({view.label}) is revoked.\n")
    else:
        sys.stdout.write(f"Key {view.id} ({view.label}) had been revoked before.\n")
    return 0


def _show_secret(view: KeyView, secret: str, parsed: argparse.Namespace) -> int:
    if parsed.json:
        write_json({**view.as_json(), "secret": secret})
    else:
        sys.stdout.write(f"Key {view.id} ({view.label}), shown only this once:\n\n  {secret}\n\n")
    return 0


def _write_members(view: KeyView) -> None:
    members = view.as_json()
    limits = members.pop("effective_limits")
    members |= {f"effective {name}": value for name, value in limits.items()}
    rows = []
    for name, value in members.items():
        if name.endswith("_at"):
            text = time_text(value)
        elif isinstance(value, list):
            text = ",".join(value)
        elif isinstance(value, dict):
            text = ",".join(f"{key}={given}" for key, given in value.items()) or "-"
        else:
            text = "-" if value is None else str(value)
        rows.append((name.replace("_", " "), text))
    write_table(rows[0], rows[1:])


def _note_unknown_models(settings: Settings, names: tuple[str, ...]) -> None:
    """Warns of names that are not in the catalogue; a later catalogue may have them."""
    from orchestrator.contract.catalogue import CatalogueError, load_catalogue

    try:
        catalogue = load_catalogue(settings.catalogue)
    except CatalogueError:
        return
    for name in names:
        if name != "*" and catalogue.find(name) is None:
            sys.stderr.write(f"orchestrator: note: `{name}` is not in the catalogue at present\n")
