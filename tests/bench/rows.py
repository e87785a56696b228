"""The rows of the table: what was measured, what was wanted, and whether it was met."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.added import Added
from tests.bench.field import Case, Reading, median
from tests.bench.gateways import LITELLM, OURS, PORTKEY, ROUTER_A, ROUTER_B
from tests.bench.growth import Growth
from tests.bench.scaling import Scaling
from tests.bench.steady import Memory

PEERS = (LITELLM, PORTKEY, ROUTER_A, ROUTER_B)
_STREAMS = {LITELLM: 1 / 15, PORTKEY: 1 / 3, ROUTER_A: 2.0, ROUTER_B: 2.0}
_CHATS = {LITELLM: 25.0, PORTKEY: 4.0}
WANTED: Mapping[str, Mapping[str, float]] = {
    "paced, 32 streams": _STREAMS,
    "paced, 128 streams": _STREAMS,
    "chat, not streamed, 32 connections": _CHATS,
    "embeddings 32 x 1024, base64": {LITELLM: 40.0},
    "embeddings 32 x 1024, float": {LITELLM: 100.0},
}
"""Of ours over a peer's: at most where less is better, at least where more is."""
STALL_MS = 20.0
FULL = 0.9
"""Of a core: whoever is one process on it can hardly do more."""
LINEAR_UP_TO = 2.0
"""A step may cost so many times more for each unit than the one before it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `met` is None where nothing was wanted or nothing can be said."""

    what: str
    ours: str
    peers: Mapping[str, str] = field(default_factory=dict)
    wanted: str = ""
    met: bool | None = None
    busy: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


def of_field(case: Case, readings: Mapping[str, Sequence[Reading]]) -> Row:
    """Ours beside the peers; behind each of theirs ours as a multiple of it."""
    values = {name: median(found) for name, found in readings.items()}
    ours = values[OURS]
    wanted = WANTED.get(case.name, {})
    kept, told, peers = [], [], {}
    for name, value in values.items():
        if name == OURS:
            continue
        if not value or ours is None:
            peers[name] = "failed" if value is None else _number(value)
            continue
        ratio = ours / value
        sign = "≥ " if case.more_is_better and _is_held_up(readings[name]) else ""
        peers[name] = f"{sign}{_number(value)} ({ratio:.2g} x)"
        if (limit := wanted.get(name)) is not None:
            kept.append(ratio >= limit if case.more_is_better else ratio <= limit)
    sign = "≥" if case.more_is_better else "≤"
    told = [f"{sign} {limit:.2g} x {_short(name)}" for name, limit in wanted.items()]
    return Row(
        f"{case.name}, {case.unit}",
        "failed" if ours is None else _number(ours),
        peers,
        ", ".join(dict.fromkeys(told)),
        all(kept) if kept else None,
        _busy(readings),
        {name: [asdict(reading) for reading in found] for name, found in readings.items()},
    )


def of_added(added: Added) -> list[Row]:
    """Latency over the engine spoken to directly."""
    return [
        Row(
            "added to every token, 32 paced streams, p50 / p99",
            f"{added.p50_ms:.1f} / {added.p99_ms:.1f} ms",
            wanted="≤ 2 / ≤ 10 ms",
            met=added.p50_ms <= 2 and added.p99_ms <= 10,
            figures=asdict(added),
        ),
        Row(
            "added to the first token, prompt of 500 tokens, p50",
            f"{added.long_first_p50_ms:.1f} ms",
            wanted="≤ 3 ms",
            met=added.long_first_p50_ms <= 3,
        ),
    ]


def of_demo(found: Mapping[str, Any]) -> Row:
    """The demonstration model behind a real Triton."""
    ratio = found["tokens_ratio"]
    return Row(
        "demo model on the CPU engine, 32 streams, tokens/s of Triton's own",
        f"{100 * ratio:.0f} %",
        wanted="≥ 90 %",
        met=ratio >= 0.9,
        figures=found,
    )


def of_memory(memory: Memory) -> list[Row]:
    """What a worker holds."""
    grown = memory.after_requests_mb - memory.warm_mb
    return [
        Row(
            f"worker's memory: warm, after {memory.requests:,} requests more",
            f"{memory.warm_mb:.0f}, {memory.after_requests_mb:.0f} MB"
            f" (parent {memory.parent_mb:.0f} MB)",
            wanted="flat, ≤ 150 MB",
            met=grown <= 0.05 * memory.warm_mb and memory.after_requests_mb <= 150,
            figures=asdict(memory),
        ),
        Row(
            f"memory of a further stream, from {memory.streams // 2:,} to {memory.streams:,} open",
            f"{memory.kb_per_stream:.0f} kB",
            wanted="≤ 30 kB",
            met=memory.kb_per_stream <= 30,
        ),
    ]


def of_scaling(found: Sequence[Scaling]) -> list[Row]:
    """Several workers on one Redis."""
    return [
        Row(
            f"chat over Redis, {one.workers} worker{'s' if one.workers > 1 else ''}, requests/s",
            f"{_number(one.requests_per_s)}; {one.let_through} let through of a limit of"
            f" {one.limit}",
            wanted="no limit overshoots",
            met=one.let_through <= one.limit,
            figures=asdict(one),
        )
        for one in found
    ]


def of_growth(growth: Growth) -> Row:
    """What a larger request costs."""
    costs = ", ".join(f"{size:,}: {cost:.2f} ms" for size, cost in growth.cpu_ms.items())
    stall = max(growth.stall_ms.values())
    return Row(
        f"CPU by {growth.name} ({growth.unit}); longest wait of another request",
        f"{costs}; {stall:.0f} ms",
        wanted=f"linear; ≤ {STALL_MS:.0f} ms",
        met=growth.steepness <= LINEAR_UP_TO and stall <= STALL_MS,
        figures=asdict(growth) | {"steepness": growth.steepness},
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    names = [name for name in PEERS if any(name in row.peers for row in rows)]
    others = [
        name for name in dict.fromkeys(n for row in rows for n in row.peers) if name not in names
    ]
    columns = [*names, *others]
    lines = [["", "orchestrator", *columns, "wanted", "met", "shares of a core"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        met = {True: "yes", False: "no", None: "–"}[row.met]
        peers = [row.peers.get(name, "–") for name in columns]
        lines.append([row.what, row.ours, *peers, row.wanted, met, row.busy])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _busy(readings: Mapping[str, Sequence[Reading]]) -> str:
    """How busy gateway, engine and generator were while ours was measured."""
    gateway, engine, own = _shares(readings[OURS])
    full = max(gateway, engine, own)
    told = (("", gateway), ("engine ", engine), ("generator ", own))
    return ", ".join(
        f"{name}{share:.0%}{' (full)' if share == full >= FULL else ''}" for name, share in told
    )


def _is_held_up(readings: Sequence[Reading]) -> bool:
    """Whether engine or generator had no more to give, so that the gateway could have done more."""
    gateway, *others = _shares(readings)
    return max(others) >= FULL and gateway < max(others)


def _shares(readings: Sequence[Reading]) -> list[float]:
    """Of a core: gateway, engine, generator."""
    return [
        statistics.median(getattr(reading, name) for reading in readings)
        for name in ("gateway_share", "engine_share", "generator_share")
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(name: str) -> str:
    return name.partition(" ")[0] if "Rust" not in name else "Rust router"
