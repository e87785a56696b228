"""`orchestrator usage`."""

from __future__ import annotations

import argparse
import csv
import sys
from typing import TYPE_CHECKING

from orchestrator.cli.arguments import moment_ms
from orchestrator.cli.output import write_json, write_table
from orchestrator.cli.stores import existing

if TYPE_CHECKING:
    from orchestrator.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--start", type=moment_ms, metavar="TIME", help="the first moment that counts"
    )
    parser.add_argument(
        "--end", type=moment_ms, metavar="TIME", help="the first that no longer does"
    )
    parser.add_argument("--tenant", metavar="NAME", help="name or id; default: all tenants")
    parser.add_argument("--key", metavar="ID", help="this key only")
    parser.add_argument("--model", metavar="ID", help="this model only, as requests named it")
    parser.add_argument("--by", default="day,key,model", help="any of hour,day,key,model")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for scripts")
    form.add_argument("--csv", action="store_true", help="for spreadsheets")


async def show(settings: Settings, parsed: argparse.Namespace) -> int:
    """Writes usage sums. Raises: StoreError, SettingsError."""
    from orchestrator.books import lines as usage_lines
    from orchestrator.books import queries as usage_queries
    from orchestrator.books.sums import UsageFilter
    from orchestrator.core.timestamps import format_moment
    from orchestrator.keys import tenants

    try:
        by = usage_lines.parse_groupings(parsed.by)
    except ValueError as error:
        return _fail(f"--by: {error}")
    database = existing(settings)
    try:
        await database.check_schema()
        async with database.reading() as session:
            tenant_id = None
            if parsed.tenant is not None:
                tenant = await tenants.find(session, parsed.tenant)
                if tenant is None:
                    return _fail(f"there is no tenant `{parsed.tenant}`")
                tenant_id = tenant.id
            which = UsageFilter(tenant_id, parsed.start, parsed.end, parsed.key, parsed.model)
            rows = [
                usage_lines.cells(one) for one in await usage_queries.summed(session, which, by)
            ]
            (total,) = await usage_queries.summed(session, which)
    except usage_queries.RecordsGoneError as gone:
        hour = format_moment(gone.hour_at)
        return _fail(f"single records of {hour} are no longer kept: give full hours in UTC")
    finally:
        await database.close()
    if parsed.json:
        write_json({"object": "list", "data": rows, "total": usage_lines.cells(total)})
        return 0
    names = usage_lines.columns(by)
    if parsed.csv:
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return 0
    table = [tuple(str(row[name]) for name in names) for row in rows]
    write_table(tuple(name.replace("_", " ").upper() for name in names), table)
    return 0


def _fail(sentence: str) -> int:
    sys.stderr.write(f"orchestrator: {sentence}\n")
    return 1
