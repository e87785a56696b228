"""Detects that a Triton that was ready is dead: by its processes, or by its silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from orchestrator.supervisor.process import TritonProcess

Probe = Callable[[], Awaitable[None]]
"""Returns when every loaded model has answered; raises when one did not."""

IsBusy = Callable[[], bool]
"""Says whether an engine is computing at this moment."""

_PROCESSES_EVERY_S = 0.1
_GONE = ""
_SUSPECT_FOR_S = {"Z": 0.3, "T": 0.3, _GONE: 0.5}
"""How long a process must be seen unreaped, stopped or gone before it counts as trouble.

The log reports an unload after its stub is gone, so that takes longest. A stub that was killed
stays unreaped for some time.
"""
_LOOK_EVERY_S = 0.5
_BUSY_WEIGHT = 0.1
_BUSY_LOOKS = 3
_SLICE_S = 0.1
_STRIKES = 2


async def process_trouble(process: TritonProcess) -> str:
    """Returns once the server or a stub is stopped, or a stub is gone that was not unloaded.

    Triton itself continues as if nothing were wrong when a stub dies.
    """
    known = {member.pid for member in process.members()}
    suspects: dict[tuple[int, str], float] = {}
    changes = process.model_changes
    while True:
        await asyncio.sleep(_PROCESSES_EVERY_S)
        if process.model_changes != changes:
            # Triton is loading or unloading; stubs start and end.
            changes = process.model_changes
            known, suspects = {member.pid for member in process.members()}, {}
            continue
        now, states = time.monotonic(), process.states()
        troubled = {
            (pid, state)
            for pid in known
            if (state := states.get(pid, _GONE)) in _SUSPECT_FOR_S
            # The end of the server itself is waited for elsewhere, where its exit code is known.
            and (state == "T" or pid != process.pid)
        }
        suspects = {one: suspects.get(one, now) for one in troubled}
        for (pid, state), since in suspects.items():
            if now - since >= _SUSPECT_FOR_S[state]:
                return f"its process {pid} {'was stopped' if state == 'T' else 'is gone'}"


async def silence(probe: Probe, *, interval_s: float, timeout_s: float, is_busy: IsBusy) -> str:
    """Returns once `probe` fails twice in a row or gets no answer for `timeout_s`."""
    strikes = 0
    while True:
        # After a failure it asks again at once; one failed request does not mean a failed server.
        await asyncio.sleep(0.2 if strikes else interval_s)
        failure = await ask(probe, timeout_s, is_busy)
        if failure is None:
            strikes = 0
            continue
        strikes += 1
        if strikes == _STRIKES or isinstance(failure, TimeoutError):
            return describe(failure, timeout_s)


async def ask(probe: Probe, timeout_s: float, is_busy: IsBusy) -> Exception | None:
    """Runs `probe` once: `None` if it passed, `TimeoutError` after `timeout_s` without an answer.

    A long prompt or a busy machine delays an answer as a fault does, so time in which an engine
    was computing counts a tenth. Time in which this process did not run, because the machine slept,
    hardly counts either.
    """
    task = asyncio.ensure_future(_call(probe))
    waited_s = counted_s = 0.0
    busy_looks = 0
    try:
        while not task.done():
            if counted_s >= timeout_s:
                return TimeoutError()
            before = time.monotonic()
            await asyncio.wait([task], timeout=_SLICE_S)
            slice_s = min(time.monotonic() - before, 2 * _SLICE_S)
            waited_s += slice_s
            # Idle servers wake up now and then; one that computes is busy at every look.
            busy_looks = busy_looks + 1 if waited_s > _LOOK_EVERY_S and is_busy() else 0
            counted_s += slice_s * (_BUSY_WEIGHT if busy_looks >= _BUSY_LOOKS else 1.0)
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=1.0)


async def _call(probe: Probe) -> Exception | None:
    try:
        await probe()
    except Exception as error:
        return error
    return None


def describe(failure: Exception, timeout_s: float) -> str:
    """Describes `failure` in words."""
    if isinstance(failure, TimeoutError):
        return f"it has not answered for {timeout_s:g} s"
    while isinstance(failure, ExceptionGroup):
        failure = failure.exceptions[0]
    return f"a test request failed: {failure}"
