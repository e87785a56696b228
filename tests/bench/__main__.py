"""`make bench` prints the table; `python -m tests.bench PART…` takes other measurements.

Everything runs on this machine and takes its share of the same cores, the load generator too, so
the ratios say more than the figures.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import uvloop

from orchestrator.settings import PROJECT_ROOT
from tests.bench import (
    disconnects,
    faults,
    keys,
    memory,
    policy,
    profile,
    speed,
    table,
    telemetry,
    transports,
)

COLUMNS = (
    ("case", "", "{}"),
    ("tokens_ratio", "tokens/s, front : direct", "{:.2f}"),
    ("front_tokens_per_s", "tokens/s", "{:.0f}"),
    ("front_requests_per_s", "requests/s", "{:.1f}"),
    ("added_first_p50_ms", "added to first token p50 ms", "{:.1f}"),
    ("added_first_p99_ms", "p99 ms", "{:.1f}"),
    ("added_total_p50_ms", "added to whole p50 ms", "{:.1f}"),
    ("orchestrator_cpu_s_per_1k_tokens", "CPU s / 1k tokens", "{:.3f}"),
    ("orchestrator_cpu_s_per_1k_requests", "CPU s / 1k requests", "{:.2f}"),
    ("failed", "failed", "{}"),
)


async def main(parts: Sequence[str]) -> int:
    """Runs `parts`, or draws up the table."""
    failures = 0
    for part in parts or ["table"]:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            failures += await PARTS[part](Path(folder))
    return 1 if failures else 0


async def _table(folder: Path) -> int:
    """A target that is missed is told in the table, and is no failure."""
    await table.report(folder)
    return 0


async def _quick(folder: Path) -> int:
    await table.report(folder, quick=True)
    return 0


async def _disconnects(folder: Path) -> int:
    figures = await disconnects.report(folder)
    _show("disconnects", figures)
    return len(figures["left_behind"]) + (not figures["triton_and_server_exit_0"])


async def _memory(folder: Path) -> int:
    figures = await memory.report(folder)
    _show("memory", figures)
    return int(figures["failed"])


async def _faults(folder: Path) -> int:
    figures = await faults.report(folder)
    _show("faults", figures)
    return len(figures["left_behind"]) + int(figures["exit_code"])


async def _keys(folder: Path) -> int:
    figures = await keys.report(folder)
    _show("keys", figures)
    return int(figures["cached_statements"])


async def _policy(folder: Path) -> int:
    _show("policy", await policy.report(folder))
    return 0


async def _telemetry(folder: Path) -> int:
    figures = await telemetry.report(folder)
    _show("telemetry", figures)
    return sum(figures[name]["failed"] for name in telemetry.SHARES)


async def _speed(folder: Path) -> int:
    """All cases as one table, also written as JSON."""
    repository = PROJECT_ROOT / "model_repository"
    rows = await speed.scripted_cases(_made(folder / "scripted"))
    rows += await speed.demo_cases(
        _made(folder / "demo"), repository, repository / "catalogue.toml"
    )
    sys.stdout.write(_markdown(rows))
    sys.stderr.write(f"written to {_write(rows)}\n")
    return sum(row["failed"] for row in rows)


async def _transports(folder: Path) -> int:
    _show("transports", await transports.report(folder))
    return 0


PARTS: dict[str, Callable[[Path], Awaitable[int]]] = {
    "table": _table,
    "--quick": _quick,
    "profile": profile.report,
    "speed": _speed,
    "disconnects": _disconnects,
    "faults": _faults,
    "memory": _memory,
    "keys": _keys,
    "policy": _policy,
    "telemetry": _telemetry,
    "transports": _transports,
}


def _show(title: str, figures: dict[str, Any]) -> None:
    sys.stdout.write(f"{title}: {json.dumps(figures, indent=2)}\n")


def _markdown(rows: list[dict[str, Any]]) -> str:
    """`rows` in Markdown."""
    lines = [[title or "case" for _, title, _ in COLUMNS]]
    lines += [[form.format(row[name]) for name, _, form in COLUMNS] for row in rows]
    lines.insert(1, ["---"] * len(COLUMNS))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _write(rows: list[dict[str, Any]]) -> Path:
    folder = PROJECT_ROOT / "bench-results"
    folder.mkdir(exist_ok=True)
    path = folder / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    machine = {
        "cores": psutil.cpu_count(),
        "load_before": psutil.getloadavg()[0],
        "python": platform.python_version(),
    }
    path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2), encoding="utf-8")
    return path


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(uvloop.run(main(sys.argv[1:])))
