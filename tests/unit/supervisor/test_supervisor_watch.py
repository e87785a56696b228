"""When silence counts as death, and when it does not."""

from __future__ import annotations

import asyncio
import time

import pytest

from orchestrator.supervisor import watch

pytestmark = pytest.mark.slow


def idle() -> bool:
    return False


def busy() -> bool:
    return True


async def never() -> None:
    await asyncio.Event().wait()


async def passes() -> None:
    return


async def fails() -> None:
    raise RuntimeError("no answer from the stub")


async def test_answer_is_no_failure() -> None:
    assert await watch.ask(passes, 1.0, idle) is None


async def test_no_answer_is_a_timeout() -> None:
    began_at = time.monotonic()
    assert isinstance(await watch.ask(never, 0.3, idle), TimeoutError)
    assert time.monotonic() - began_at >= 0.3


async def test_failure_is_handed_back() -> None:
    failure = await watch.ask(fails, 1.0, idle)
    assert str(failure) == "no answer from the stub"


async def test_busy_server_gets_more_time() -> None:
    answered = asyncio.Event()

    async def slow() -> None:
        await answered.wait()

    asking = asyncio.create_task(watch.ask(slow, 0.9, busy))
    await asyncio.sleep(2.0)
    assert not asking.done()
    answered.set()
    assert await asking is None


async def test_pause_of_this_process_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers_after_the_pause() -> None:
        time.sleep(0.6)  # noqa: ASYNC251  # the whole process stands still
        await asyncio.sleep(0.15)

    assert await watch.ask(answers_after_the_pause, 0.5, idle) is None


async def test_one_failure_is_forgiven_and_two_are_not() -> None:
    outcomes = iter([True, False, True, False, False])
    asked = 0

    async def flaky() -> None:
        nonlocal asked
        asked += 1
        if not next(outcomes):
            raise RuntimeError("refused")

    reason = await watch.silence(flaky, interval_s=0.01, timeout_s=1.0, is_busy=idle)
    assert reason == "a test request failed: refused"
    assert asked == 5


async def test_silence_is_told_with_its_length() -> None:
    reason = await watch.silence(never, interval_s=0.01, timeout_s=0.2, is_busy=idle)
    assert reason == "it has not answered for 0.2 s"


def test_cause_inside_of_exception_groups_is_told() -> None:
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [RuntimeError("the stub died")])])
    assert watch.describe(group, 1.0) == "a test request failed: the stub died"
