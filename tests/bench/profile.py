"""`make profile`: where the worker's time goes, per token and per request, and a flame graph.

py-spy looks at the worker from outside while it answers paced streams, then whole answers. It
counts whoever holds the interpreter, system calls made under it included. The calls of Python
functions are counted from inside, and are exact where times are not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.bench import environment, field, gateways, load, processes, repository, steady
from tests.bench.field import Case
from tests.bench.gateways import Target
from tests.bench.table import RESULTS
from tests.otlp_receiver import receiving

SECONDS = 20
PER_SECOND = 200
SHOWN = 25
SETTLE_S = 2.0
COUNTED = Path(__file__).with_name("counted")
CASES = {"paced, 32 streams": "token", "chat, not streamed, 32 connections": "request"}


async def report(folder: Path) -> int:
    """Prints the top of both profiles and writes their graphs."""
    if missing := environment.make():
        sys.stderr.write("\n".join(missing) + "\n")
    RESULTS.mkdir(exist_ok=True)
    with gateways.engine(folder) as engine, receiving() as receiver:
        made = repository.write(folder / "repository")
        settings = {"PYTHONPATH": str(COUNTED), "BENCH_CALLS": str(folder / "calls")}
        with gateways.orchestrator(
            engine, made, folder, collector=receiver.url, settings=settings
        ) as target:
            for case in field.cases(quick=True):
                if case.name in CASES:
                    await _profile(case, target, CASES[case.name], folder)
    return 0


async def _profile(case: Case, target: Target, unit: str, folder: Path) -> None:
    raw = load.request("127.0.0.1", target.port, case.path, case.body, target.headers)
    clients = [await load.Client.open("127.0.0.1", target.port) for _ in range(case.connections)]
    # Unobserved first: looking costs something.
    before = processes.cost(target.pid)
    run = await load.run(clients, case.requests, raw)
    cpu_us = 1e6 * processes.cost(target.pid).since(before)
    units = run.tokens if unit == "token" else len(run.answers)
    stacks = folder / f"{unit}.stacks"
    spies = [
        _spy(target, "raw", stacks),
        _spy(target, "flamegraph", RESULTS / time.strftime(f"%Y%m%dT%H%M%SZ-{unit}.svg")),
    ]
    for spy in spies:
        while spy.poll() is None:
            await load.run(clients, case.requests, raw)
        await asyncio.to_thread(spy.wait)
    calls = await _calls(case, target, clients, raw, folder / "calls") / units
    for client in clients:
        client.drop()
    sys.stdout.write(
        f"\n{case.name}: {cpu_us / units:.1f} µs of CPU and {calls:.0f} calls of Python functions"
        f" a {unit}\n"
    )
    sys.stdout.write(_top(stacks.read_text(encoding="utf-8"), cpu_us / units))


async def _calls(
    case: Case, target: Target, clients: Sequence[load.Client], raw: bytes, place: Path
) -> int:
    """Of Python functions in the worker, for as many requests as the case has."""
    worker = steady.worker_of(target).pid
    os.kill(worker, signal.SIGUSR2)
    await asyncio.sleep(SETTLE_S)
    await load.run(clients, case.requests, raw)
    os.kill(worker, signal.SIGUSR2)
    await asyncio.sleep(SETTLE_S)
    return _counted(place)


def _counted(place: Path) -> int:
    return int(place.read_text(encoding="utf-8"))


def _spy(target: Target, form: str, path: Path) -> subprocess.Popen[bytes]:
    """Half of the time for each form of output."""
    options = ["--gil", "--nonblocking", "-r", str(PER_SECOND), "-d", str(SECONDS // 2)]
    return subprocess.Popen(
        [
            str(environment.program("py-spy")),
            "record",
            *options,
            *("-f", form, "-o", str(path), "-p", str(steady.worker_of(target).pid)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _top(stacks: str, cpu_us: float) -> str:
    """The functions with the largest shares: of their own, and with what they call."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in stacks.split("\n"):
        stack, _, count = line.rpartition(" ")
        if not count.isdecimal():
            # The worker goes on while it is looked at, and what is read of it may be torn.
            continue
        frames = [frame.rpartition(":")[0] for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        whole.update(dict.fromkeys(frames, int(count)))
    total = max(1, own.total())
    lines = [f"{'own µs':>8} {'whole µs':>9}  function\n"]
    scale = cpu_us / total
    for name, samples in own.most_common(SHOWN):
        lines.append(f"{samples * scale:8.1f} {whole[name] * scale:9.1f}  {name}\n")
    return "".join(lines)
