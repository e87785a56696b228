from __future__ import annotations

import io
from dataclasses import replace

from build_engines.plan import Plan
from build_engines.progress import Display

PLAN = Plan("cpu", "cpu", "X", "x", "int8", disk_bytes=1 << 30, host_bytes=3 << 30)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pipe_gets_a_line_for_each_stage() -> None:
    stream, clock = io.StringIO(), Clock()
    display = Display("a/b", stream, clock)
    display.plan(PLAN)
    clock.now += 2
    display.stage("converting")
    display.close()
    assert stream.getvalue().splitlines() == [
        "engines: a/b: X for `cpu` (backend cpu)",
        "engines: a/b: weights int8",
        "engines: a/b: needs about disk 1.0 GiB, host memory 3.0 GiB",
        "engines: a/b: converting (2.0 s)",
    ]


def test_what_the_last_build_took_is_expected_of_this_one() -> None:
    stream, clock = io.StringIO(), Clock()
    display = Display("a/b", stream, clock)
    display.plan(replace(PLAN, expected_s=48.0))
    clock.now += 12
    display.stage("converting")
    assert "took 48 s the last time" in stream.getvalue()
    assert stream.getvalue().endswith("converting (12.0 of about 48.0 s)\n")
    assert display.bar() == "[######------------------]"
    clock.now += 100
    assert display.bar() == f"[{'#' * 24}]"


def test_a_terminal_gets_a_bar_that_is_taken_away() -> None:
    stream, clock = Terminal(), Clock()
    display = Display("a/b", stream, clock)
    display.plan(replace(PLAN, expected_s=10.0))
    clock.now += 5
    display.stage("converting")
    assert "[############------------] converting (5.0 of about 10.0 s)" in stream.getvalue()
    display.close()
    display.say("built")
    assert stream.getvalue().endswith("\r\x1b[Kengines: a/b: built\n")
