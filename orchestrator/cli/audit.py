"""`orchestrator audit verify | export`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from orchestrator.cli.output import write_json
from orchestrator.cli.stores import existing

if TYPE_CHECKING:
    from orchestrator.settings import Settings
    from orchestrator.store.audit_log import Head


def head(text: str) -> Head:
    """A head noted earlier. Raises: ArgumentTypeError."""
    from orchestrator.store.audit_anchor import parse_head

    try:
        return parse_head(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_arguments(parser: argparse.ArgumentParser) -> tuple[argparse.ArgumentParser, ...]:
    """The commands below `audit`: verify, export."""
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
    export = commands.add_parser("export", help="write every line as JSON, one to a line")
    return verify, export


async def verify(settings: Settings, parsed: argparse.Namespace) -> int:
    """Checks the whole chain; 1 when it is not whole. Raises: StoreError, SettingsError."""
    from orchestrator.store import audit_log
    from orchestrator.store.audit_anchor import format_head, read_anchor

    noted = read_anchor(settings.data_dir)
    known = [*parsed.head, *([noted] if noted is not None else [])]
    database = existing(settings)
    try:
        await database.check_schema()
        async with database.reading() as session:
            fault, end = await audit_log.first_fault(session, known_heads=known)
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
    return 1


async def export(settings: Settings) -> int:
    """Writes every line of every tenant. Raises: StoreError, SettingsError."""
    from orchestrator.store import audit_log

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
