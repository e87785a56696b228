"""`orchestrator doctor`."""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.cli.arguments import add_json
from orchestrator.cli.output import write_json

if TYPE_CHECKING:
    from orchestrator.doctor import Finding
    from orchestrator.settings import Settings

EXIT_CODES = {"ok": 0, "warning": 1, "failed": 2}
_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--deep", action="store_true", help="read every engine whole and compare its hashes"
    )
    add_json(parser)


async def run(settings: Settings, parsed: argparse.Namespace) -> int:
    """Checks everything. The exit code is that of the worst finding: 0, 1 or 2."""
    from orchestrator.doctor import examine

    # Problems are reported as findings; log lines would appear between them.
    logging.disable()
    findings = await examine(settings, deep=parsed.deep)
    worst = max((finding.level for finding in findings), key=EXIT_CODES.__getitem__)
    if parsed.json:
        entries = [
            {
                "level": finding.level,
                "subject": finding.subject,
                "text": finding.text,
                "advice": finding.advice,
            }
            for finding in findings
        ]
        write_json({"status": worst, "findings": entries})
    else:
        sys.stdout.write(table(findings))
    return EXIT_CODES[worst]


def table(findings: Sequence[Finding]) -> str:
    """Returns one line for each finding, wrapped at 80 columns, with what to do below."""
    level_width = max(len(level) for level in EXIT_CODES)
    subject_width = min(24, max(len(finding.subject) for finding in findings))
    indent = " " * (level_width + subject_width + 4)
    lines = []
    for finding in findings:
        head = f"{finding.level:<{level_width}}  {finding.subject:<{subject_width}}  "
        lines.append(_wrapped(head, finding.text, indent))
        if finding.advice:
            lines.append(_wrapped(f"{indent}→ ", finding.advice, f"{indent}  "))
    counts = {level: sum(one.level == level for one in findings) for level in EXIT_CODES}
    told = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
    return "\n".join([*lines, "", told]) + "\n"


def _wrapped(head: str, text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
