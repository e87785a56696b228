"""Rules in processes of their own: stopped in time, bounded in memory, and replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from orchestrator.policy.question import question
from orchestrator.rego import BoundExceededError, Bounds, EvaluatorsError, NoAnswerError
from orchestrator.rego.pool import Evaluators
from tests.unit.policy.facts import HEAD, NOON, asked, new_evaluators, version

LONG_S = 60
QUICK = Bounds(10, 0.3)
NUMBERS = "nums := [" + ", ".join(str(number) for number in range(40)) + "]; "
SIX = " ".join(f"some {name} in nums;" for name in "abcdef")
LOOP = HEAD + f'deny contains "x" if {{ {NUMBERS}{SIX} a + b + c + d + e + f > 999 }}'
FINE = HEAD + "deny contains input.key.label"
BOMBS = {
    "a text that doubles": 'a := "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"\n\n'
    'b := replace(a, "x", a)\n\nc := replace(b, "x", b)\n\nd := replace(c, "x", c)\n\n'
    'deny contains "x" if count(d) == 3',
    "a set of millions": f"deny contains x if {{ {NUMBERS}{SIX} x := [a, b, c, d, e, f] }}",
    "a width": 'deny contains sprintf("%2000000000d", [3])',
    "a list that doubles": "a := [1, 2, 3, 4, 5, 6, 7, 8]\n\n"
    + "\n\n".join(
        f"{one} := array.concat({before}, {before})"
        for before, one in zip("abcdefghijklmnopqrstuvw", "bcdefghijklmnopqrstuvwx", strict=True)
    )
    + '\n\ndeny contains "x" if count(x) == 3',
    "a pattern": 'deny contains "x" if regex.match("(a*)*(a*)*(a*)*b", '
    f'"{"a" * 60}")\n\ndeny contains "y" if true',
    "a glob": f'deny contains "x" if glob.match("{"*a" * 30}b", [], "{"a" * 200}")'
    '\n\ndeny contains "y" if true',
}


def document(label: str = "ci") -> dict[str, Any]:
    return question(version(HEAD), asked(key_label=label, at=NOON), clock=True).document()


async def ask(
    evaluators: Evaluators,
    module: str | None = FINE,
    *,
    label: str = "ci",
    tenant: str = "ten_1",
    bounds: Bounds = QUICK,
) -> Any:
    async with evaluators.place(tenant, LONG_S) as place:
        return await place.answer(module, document(label), bounds)


def processes() -> list[psutil.Process]:
    """The evaluators that this process has."""
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "orchestrator.rego.child" in child.cmdline()
    ]


async def until(holds: Callable[[], bool]) -> None:
    """Returns when it holds; the test's own time limit is the end of the patience."""
    while not holds():  # noqa: ASYNC110  # what processes do raises no event
        await asyncio.sleep(0.05)


@pytest_asyncio.fixture
async def evaluators() -> AsyncIterator[Evaluators]:
    made = new_evaluators(memory_mb=64)
    yield made
    await made.close()
    assert processes() == []


async def test_processes_start_with_the_first_question_and_are_used_again(
    evaluators: Evaluators,
) -> None:
    assert processes() == []
    assert (await ask(evaluators))["reason"] == "ci"
    before = [process.pid for process in processes()]
    assert (await ask(evaluators, label="b"))["reason"] == "b"
    assert (await ask(evaluators, None))["allow"]
    assert [process.pid for process in processes()] == before
    assert len(before) == evaluators.running == 1


async def test_rules_that_loop_are_stopped_and_the_next_are_answered(
    evaluators: Evaluators,
) -> None:
    with pytest.raises(BoundExceededError, match=r"longer than 0\.3 s to evaluate"):
        await ask(evaluators, LOOP)
    assert processes() == []
    assert (await ask(evaluators))["reason"] == "ci"


@pytest.mark.parametrize("bomb", BOMBS)
async def test_what_blows_up_stays_within_time_and_memory(
    evaluators: Evaluators, bomb: str
) -> None:
    most = 0
    asking = asyncio.create_task(ask(evaluators, HEAD + BOMBS[bomb], bounds=Bounds(10, 0.5)))
    while not asking.done():
        for process in processes():
            try:
                most = max(most, process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        await asyncio.sleep(0.01)
    # Either they are stopped, or the library is equal to them.
    error = asking.exception()
    assert error is None or isinstance(error, NoAnswerError), error
    assert most < 400 * 2**20
    assert (await ask(evaluators))["reason"] == "ci"


async def test_memory_has_a_bound_that_is_named(evaluators: Evaluators) -> None:
    bomb = HEAD + BOMBS["a list that doubles"]
    with pytest.raises(BoundExceededError, match="more than 64 MiB of memory"):
        await ask(evaluators, bomb, bounds=Bounds(10, 60))


async def test_a_process_that_hangs_is_stopped_by_its_parent(evaluators: Evaluators) -> None:
    await ask(evaluators)
    process = evaluators._idle[0][0]
    os.kill(process._process.pid, signal.SIGSTOP)
    with pytest.raises(BoundExceededError, match="no answer within"):
        await ask(evaluators, bounds=Bounds(0.01, 0.01))
    assert processes() == []


async def test_a_tenant_that_keeps_its_place_busy_leaves_one_for_another(
    evaluators: Evaluators,
) -> None:
    loops = [
        asyncio.create_task(ask(evaluators, LOOP, tenant="greedy", bounds=Bounds(10, LONG_S)))
        for _ in range(5)
    ]
    await until(lambda: any(process.cpu_times().user > 0.5 for process in processes()))
    for number in range(20):
        label = f"modest-{number}"
        assert (await ask(evaluators, label=label, tenant="modest"))["reason"] == label
    assert not any(loop.done() for loop in loops)
    assert len(processes()) == 2
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


async def test_a_process_that_was_killed_meanwhile_is_replaced_unnoticed(
    evaluators: Evaluators,
) -> None:
    await ask(evaluators)
    for process in processes():
        process.kill()
    assert (await ask(evaluators))["reason"] == "ci"


async def test_a_process_that_dies_at_work_is_tried_once_more(evaluators: Evaluators) -> None:
    await ask(evaluators)
    asking = asyncio.create_task(ask(evaluators, LOOP, bounds=Bounds(10, LONG_S)))
    killed: set[int] = set()
    while len(killed) < 2:
        for process in processes():
            if process.pid not in killed and process.cpu_times().user > 1:
                process.kill()
                killed.add(process.pid)
        await asyncio.sleep(0.02)
    with pytest.raises(BoundExceededError, match="ended by SIGKILL"):
        await asking


async def test_idle_processes_end() -> None:
    evaluators = new_evaluators(idle_s=0.2)
    await ask(evaluators)
    await until(lambda: not processes())
    assert (await ask(evaluators))["reason"] == "ci"
    await evaluators.close()


async def test_a_caller_that_leaves_ends_what_it_began(evaluators: Evaluators) -> None:
    asking = asyncio.create_task(ask(evaluators, LOOP, bounds=Bounds(10, LONG_S)))
    await until(lambda: bool(processes()))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert processes() == []
    assert evaluators.running == 0


async def test_without_a_program_to_start_nothing_is_the_modules_fault(
    evaluators: Evaluators, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    for _ in range(3):
        with pytest.raises(EvaluatorsError, match="No such file"):
            await ask(evaluators)
    assert "No such file" in evaluators.problem()
    assert len(caplog.records) == 1
    monkeypatch.undo()
    await ask(evaluators)
    assert evaluators.problem() == ""


async def test_a_process_holds_no_secret_and_little_memory(
    evaluators: Evaluators, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_SECURITY__PEPPER", "a pepper for tests only")
    await ask(evaluators)
    (process,) = processes()
    assert set(process.environ()) <= {
        "PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "LC_CTYPE",
    }  # fmt: skip
    assert {descriptor.path for descriptor in process.open_files()} <= {
        f"/proc/{process.pid}/statm"
    }
    assert process.memory_info().rss < 80 * 2**20


def test_a_process_at_work_dies_with_its_parent() -> None:
    program = f"""
import asyncio, pathlib, sys
sys.path.insert(0, {str(Path.cwd())!r})
from tests.unit.rego.test_pool import *
async def main():
    evaluators = new_evaluators()
    asyncio.create_task(ask(evaluators, LOOP, bounds=Bounds(60, 60)))
    await until(lambda: any(one.cpu_times().user > 0.5 for one in processes()))
    print(processes()[0].pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(timeout=60)


async def test_a_process_leaves_processors_to_answers(evaluators: Evaluators) -> None:
    async with evaluators.place("ten_1", LONG_S) as place:
        await place.answer(FINE, document(), QUICK)
        (child,) = processes()
        assert child.nice() == min(psutil.Process().nice() + 5, 19)
