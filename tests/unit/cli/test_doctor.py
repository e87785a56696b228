"""How findings are shown."""

from __future__ import annotations

from orchestrator.cli.doctor import table
from orchestrator.doctor.finding import failed, ok, warning

FINDINGS = [
    ok("python", "3.11.7"),
    warning("clock", "not set by NTP", "start an NTP client"),
    failed("model demo/embed", "a reason " * 20, "do what " * 20),
    ok("a subject that is much longer than the others are", "x"),
]


def test_nothing_is_wider_than_a_terminal_of_80_columns() -> None:
    assert max(len(line) for line in table(FINDINGS).splitlines()) <= 80


def test_each_finding_begins_with_its_level_and_is_followed_by_what_to_do() -> None:
    lines = table(FINDINGS[:2]).splitlines()
    assert lines == [
        "ok       python  3.11.7",
        "warning  clock   not set by NTP",
        "                 → start an NTP client",
        "",
        "1 ok, 1 warning",
    ]
