"""`orchestrator audit verify | accept | export`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from orchestrator.cli.output import write_json
from orchestrator.cli.stores import existing

_MAX_REASON = 500

if TYPE_CHECKING:
    from orchestrator.audit.log import ChainHead
    from orchestrator.settings import Settings


def head(text: str) -> ChainHead:
    """Parses a head saved earlier. Raises: ArgumentTypeError."""
    from orchestrator.audit.anchor import parse_head

    try:
        return parse_head(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def reason(text: str) -> str:
    """Parses the reason for an action. Raises: ArgumentTypeError."""
    if not 0 < len(text.strip()) <= _MAX_REASON:
        raise argparse.ArgumentTypeError(
            f"must have 1 to {_MAX_REASON} characters; {len(text)} were given"
        )
    return text.strip()


def add_arguments(parser: argparse.ArgumentParser) -> tuple[argparse.ArgumentParser, ...]:
    """Adds the commands of `audit`: verify, accept, export."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    verify = commands.add_parser("verify", help="name the first line that is not as written")
    verify.add_argument(
        "--head",
        type=head,
        action="append",
        default=[],
        metavar="NUMBER:HASH",
        help="an end of the audit that was noted earlier and must still be part of it",
    )
    verify.add_argument("--json", action="store_true", help="for scripts")
    accept = commands.add_parser(
        "accept", help="take the audit for whole that does not reach its noted end, as a backup"
    )
    accept.add_argument("--reason", type=reason, required=True, help="kept in the audit")
    export = commands.add_parser("export", help="write every line as JSON, one to a line")
    return verify, accept, export


async def verify(settings: Settings, parsed: argparse.Namespace) -> int:
    """Checks the whole chain; returns 1 when it has a fault. Raises: StoreError, SettingsError."""
    from orchestrator.audit import log as audit_log
    from orchestrator.audit.anchor import format_head, read_anchor

    noted = read_anchor(settings.data_dir)
    known = [*parsed.head, *([noted] if noted is not None else [])]
    database = existing(settings)
    try:
        await database.check_schema()
        async with database.reading() as session:
            fault, end = await audit_log.first_fault(session, known_heads=known)
            is_lost = noted is not None and not await audit_log.passes_through(session, noted)
    finally:
        await database.close()
    if parsed.json:
        write_json(
            {
                "object": "audit_verification",
                "whole": fault is None,
                "lines": end.seq,
                "head": format_head(end),
                "fault": None if fault is None else {"seq": fault.seq, "problem": fault.problem},
            }
        )
    elif fault is None:
        sys.stdout.write(f"The audit is whole: {end.seq} lines.\nHead  {format_head(end)}\n")
    if fault is None:
        return 0
    sys.stderr.write(f"orchestrator: line {fault.seq} of the audit {fault.problem}\n")
    if noted is not None and is_lost:
        sys.stderr.write(
            f"The audit does not reach its noted end {format_head(noted)}. If that is known, as "
            "after a restored backup: `orchestrator audit accept --reason TEXT`\n"
        )
    return 1


async def accept(settings: Settings, parsed: argparse.Namespace) -> int:
    """Saves the current head of the chain, in place of one that the chain does not pass through.

    The act and its reason become a line of the chain. Returns 1 for a chain with a fault inside.
    Raises: StoreError, SettingsError.
    """
    from orchestrator.audit import log as audit_log
    from orchestrator.audit.anchor import format_head, read_anchor, write_anchor
    from orchestrator.cli.stores import fail, opened

    noted = read_anchor(settings.data_dir)
    async with opened(settings) as database:
        async with database.reading() as session:
            fault, end = await audit_log.first_fault(session)
            is_whole = noted is None or await audit_log.passes_through(session, noted)
        if fault is not None:
            return fail(
                f"line {fault.seq} of the audit {fault.problem}: no noted end is at fault, "
                "and this cannot be accepted"
            )
        if noted is None or is_whole:
            sys.stdout.write("The audit reaches its noted end: there is nothing to accept.\n")
            return 0
        act = audit_log.Act(
            actor=audit_log.cli_actor(),
            action="audit.accept",
            target=format_head(end),
            before={"noted": format_head(noted)},
            after={"accepted": format_head(end), "reason": parsed.reason},
        )
        async with database.unit_of_work() as session:
            await audit_log.note(session, act)
            head = await audit_log.head(session)
        # Only after the commit: the head of a line that does not exist would be wrong again.
        assert head is not None
        write_anchor(settings.data_dir, head)
    sys.stdout.write(f"Accepted, and noted in line {head.seq}.\nHead  {format_head(head)}\n")
    return 0


async def export(settings: Settings) -> int:
    """Writes every line of every tenant. Raises: StoreError, SettingsError."""
    from orchestrator.audit import log as audit_log

    database = existing(settings)
    try:
        await database.check_schema()
        async with database.reading() as session:
            async for line in audit_log.every_line(session):
                sys.stdout.write(json.dumps(audit_log.as_document(line)) + "\n")
    except audit_log.UnreadableLineError as error:
        sys.stderr.write(f"orchestrator: line {error.seq} of the audit cannot be read\n")
        return 1
    finally:
        await database.close()
    return 0
