"""`orchestrator policies list | show | create | update | delete | test | replay`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.arguments import add_json, count, label
from orchestrator.cli.output import time_text, write_json, write_table
from orchestrator.cli.stores import cli_actor, fail, opened

if TYPE_CHECKING:
    from orchestrator.policy.question import PolicyVersion
    from orchestrator.policy.service import PolicyAdmin
    from orchestrator.settings import Settings

_Work = Callable[["PolicyAdmin", str, argparse.Namespace], Awaitable[int]]


class _Unreadable(Exception):
    """The file of an option cannot be used; the message says why."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands about policies."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help_: str, work: _Work, *, takes_id: bool) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help_)
        if takes_id:
            made.add_argument("id", metavar="ID", help="as `policies list` shows it")
        made.add_argument("--tenant", type=label, metavar="TENANT", help="name or id")
        add_json(made)
        made.set_defaults(command=lambda settings, parsed: _run(settings, parsed, work))
        return made

    command("list", "list the policies of a tenant", _list, takes_id=False)
    show = command("show", "show a policy", _show, takes_id=True)
    show.add_argument("--version", type=count, metavar="N", help="default: the one in force")
    create = command("create", "make a policy", _create, takes_id=False)
    create.add_argument("--name", type=label, required=True)
    _add_candidate(create)
    update = command("update", "write a new version, or choose one", _update, takes_id=True)
    update.add_argument("--name", type=label)
    _add_candidate(update)
    update.add_argument("--shadow", action="store_true", help="evaluate it beside the other only")
    update.add_argument("--activate", type=count, metavar="N", help="put version N in force")
    update.add_argument("--end-shadow", action="store_true", help="have no candidate any more")
    command("delete", "end a policy that no key has", _delete, takes_id=True)
    test = command("test", "try a candidate on made-up inputs", _test, takes_id=False)
    _add_candidate(test)
    test.add_argument("--inputs", required=True, metavar="FILE", help="a JSON list; - is stdin")
    replay = command("replay", "try a candidate on recorded decisions", _replay, takes_id=True)
    _add_candidate(replay)
    replay.add_argument("--version", type=count, metavar="N", help="a version that exists")
    replay.add_argument("--since", type=_moment, default=0, metavar="TIME", help="RFC 3339")


def _add_candidate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--document", metavar="FILE", help="JSON; - is stdin")
    module = parser.add_mutually_exclusive_group()
    module.add_argument("--module", metavar="FILE", help="Rego, `package gateway.custom`")
    module.add_argument("--no-module", action="store_true", help="without a module")


def _moment(text: str) -> int:
    """Parses a time to seconds since the epoch. Raises: ArgumentTypeError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise argparse.ArgumentTypeError(f"`{text}` is not a time such as 2026-11-21T12:00:00Z")
    return int(when.timestamp())


def _run(settings: Settings, parsed: argparse.Namespace, work: _Work) -> int:
    return asyncio.run(_with_admin(settings, parsed, work))


async def _with_admin(settings: Settings, parsed: argparse.Namespace, work: _Work) -> int:
    """Runs `work` with the policies' service. Raises: StoreError, SettingsError."""
    from orchestrator.core.errors import GatewayError
    from orchestrator.keys import tenants
    from orchestrator.policy.service import PolicyAdmin
    from orchestrator.policy.start import new_candidates, new_evaluators

    name = parsed.tenant or settings.bootstrap.tenant
    async with opened(settings) as database:
        async with database.reading() as session:
            tenant = await tenants.find(session, name)
        if tenant is None:
            return fail(f"there is no tenant `{name}`")
        evaluators = new_evaluators(settings)
        candidates = new_candidates(settings, evaluators)
        admin = PolicyAdmin(database, candidates, modules=settings.policy.engine == "embedded")
        try:
            return await work(admin, tenant.id, parsed)
        except (GatewayError, _Unreadable) as error:
            return fail(str(error))
        finally:
            await evaluators.close()


async def _list(admin: PolicyAdmin, tenant_id: str, parsed: argparse.Namespace) -> int:
    views = await admin.listed(tenant_id)
    if parsed.json:
        write_json({"object": "list", "data": [view.as_json() for view in views]})
        return 0
    write_table(
        ("ID", "NAME", "VERSION", "CANDIDATE", "MODULE", "WRITTEN", "BY"),
        [
            (
                view.id,
                view.head.name,
                str(view.head.active),
                str(view.head.candidate or "-"),
                "yes" if view.written.module else "no",
                time_text(view.written.created_at or None),
                view.written.created_by,
            )
            for view in views
        ],
    )
    return 0


async def _show(admin: PolicyAdmin, tenant_id: str, parsed: argparse.Namespace) -> int:
    view = (await admin.get(tenant_id, parsed.id, parsed.version)).as_json()
    if parsed.json:
        write_json(view)
        return 0
    module = view.pop("module")
    write_json(view)
    if module:
        sys.stdout.write(f"\n{module}")
    return 0


async def _create(admin: PolicyAdmin, tenant_id: str, parsed: argparse.Namespace) -> int:
    document, module = _candidate(parsed, {}, None)
    view = await admin.create(tenant_id, parsed.name, document, module, cli_actor())
    if parsed.json:
        write_json(view.as_json())
    else:
        sys.stdout.write(f"Policy {view.id} ({view.head.name}) is in force.\n")
    return 0


async def _update(admin: PolicyAdmin, tenant_id: str, parsed: argparse.Namespace) -> int:
    from orchestrator.core.actor import UNSET
    from orchestrator.policy.service import Change

    document, module = _candidate(parsed, UNSET, UNSET)
    change = Change(
        name=parsed.name or UNSET,
        document=document,
        module=module,
        shadow=parsed.shadow,
        active=parsed.activate or UNSET,
        candidate=None if parsed.end_shadow else UNSET,
    )
    view = await admin.update(tenant_id, parsed.id, change, cli_actor())
    if parsed.json:
        write_json(view.as_json())
        return 0
    shadow = f", version {view.head.candidate} in the shadow" if view.head.candidate else ""
    sys.stdout.write(f"Policy {view.id}: version {view.head.active} is in force{shadow}.\n")
    return 0


async def _delete(admin: PolicyAdmin, tenant_id: str, parsed: argparse.Namespace) -> int:
    await admin.delete(tenant_id, parsed.id, cli_actor())
    if parsed.json:
        write_json({"id": parsed.id, "object": "policy", "deleted": True})
    else:
        sys.stdout.write(f"Policy {parsed.id} is deleted.\n")
    return 0


async def _test(admin: PolicyAdmin, tenant_id: str, parsed: argparse.Namespace) -> int:
    from orchestrator.policy.views import decision_object

    document, module = _candidate(parsed, {}, None)
    inputs = _json(parsed.inputs, "--inputs")
    if not isinstance(inputs, list) or not all(isinstance(one, dict) for one in inputs):
        return fail(f"`{parsed.inputs}` must hold a JSON list of objects")
    answers = await admin.test(document, module, inputs, tenant_id=tenant_id)
    if parsed.json:
        results = [decision_object(answer) for answer in answers]
        write_json({"object": "policy_test", "data": results})
        return 0
    write_table(
        ("INPUT", "ALLOW", "RULE", "REASON"),
        [
            (str(number), "yes" if answer.allow else "no", answer.rule, answer.reason)
            for number, answer in enumerate(answers)
        ],
    )
    return 0


async def _replay(admin: PolicyAdmin, tenant_id: str, parsed: argparse.Namespace) -> int:
    from orchestrator.policy.views import replay_object

    candidate = await _version(admin, tenant_id, parsed)
    checked, changed = await admin.replay(tenant_id, parsed.id, candidate, since=parsed.since)
    if parsed.json:
        write_json(replay_object(checked, changed))
        return 0
    sys.stdout.write(f"{len(changed)} of {checked} recorded decisions would change.\n")
    if changed:
        write_table(
            ("AT", "KEY", "MODEL", "WAS", "WOULD BE"),
            [
                (
                    time_text(one.recorded.at // 1000),
                    one.recorded.key_id,
                    str(one.recorded.facts.get("requested", "")),
                    one.recorded.rule,
                    one.after.rule,
                )
                for one in changed
            ],
        )
    return 0


async def _version(admin: PolicyAdmin, tenant_id: str, parsed: argparse.Namespace) -> PolicyVersion:
    """Returns the candidate of a replay. Raises: GatewayError, _Unreadable."""
    from orchestrator.policy.question import version_of

    written = (await admin.get(tenant_id, parsed.id, parsed.version)).written
    if parsed.version is not None:
        return version_of(parsed.id, parsed.version, written.document, written.module)
    document, module = _candidate(parsed, written.document, written.module)
    return await admin.check(document, module, tenant_id)


def _candidate(parsed: argparse.Namespace, document: Any, module: Any) -> tuple[Any, Any]:
    """Returns document and module from the options, or else the given ones. Raises: _Unreadable."""
    if parsed.document is not None:
        document = _json(parsed.document, "--document")
        if not isinstance(document, Mapping):
            raise _Unreadable(f"`{parsed.document}` must hold a JSON object")
    if parsed.module is not None:
        module = _text(parsed.module)
    if parsed.no_module:
        module = None
    return document, module


def _json(path: str, option: str) -> Any:
    """Raises: _Unreadable."""
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"`{option}`: `{path}` is not JSON: {error}") from error


def _text(path: str) -> str:
    """Raises: _Unreadable."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise _Unreadable(f"`{path}` cannot be read: {reason}") from error
