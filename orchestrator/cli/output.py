"""Output of commands: aligned tables for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any


def write_json(document: Mapping[str, Any]) -> None:
    """Writes one JSON document to standard output."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes columns as wide as their widest cell, two spaces apart."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    for line in (header, *rows):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def time_text(epoch: int | None) -> str:
    """Returns a time such as `2026-11-21 06:35`, in UTC, or a dash."""
    return "-" if epoch is None else datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M")
