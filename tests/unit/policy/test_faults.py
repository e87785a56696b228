"""When a version that could not be evaluated may be tried again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchestrator.policy.faults import Faults, Name

ONE = Name("ten_1", "pol_1", 3)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def faults(clock: Clock) -> Faults:
    return Faults(now=clock, monotonic=clock)


def test_a_key_waits_twice_as_long_each_time_and_others_do_not(
    faults: Faults, clock: Clock
) -> None:
    waits = []
    for _ in range(8):
        faults.note(ONE, "key_1", "slow")
        assert faults.in_the_way(ONE, "key_2") is None
        found = faults.in_the_way(ONE, "key_1")
        assert found is not None
        waits.append(found[1])
        clock.now += found[1]
        assert faults.in_the_way(ONE, "key_1") is None
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_with_faults_for_three_keys_the_version_waits_as_a_whole(faults: Faults) -> None:
    for key in ("key_1", "key_2"):
        faults.note(ONE, key, "slow")
    assert faults.in_the_way(ONE, "key_9") is None
    faults.note(ONE, "key_3", "slow")
    assert faults.in_the_way(ONE, "key_9") is not None
    assert faults.in_the_way(ONE._replace(version=4), "key_9") is None
    assert faults.in_the_way(ONE._replace(tenant_id="ten_2"), "key_9") is None


def test_the_first_fault_is_news_and_an_answer_ends_it(faults: Faults) -> None:
    assert [faults.note(ONE, key, "slow")[1] for key in ("key_1", "key_1", "key_2")] == [
        True,
        False,
        False,
    ]
    assert [faults.answered(ONE, key) for key in ("key_3", "key_1", "key_2", "key_2")] == [
        False,
        False,
        True,
        False,
    ]
    assert faults.problems() == []
    assert faults.note(ONE, "key_1", "slow")[1]


def test_a_change_of_the_policy_lets_it_be_tried_at_once(faults: Faults) -> None:
    other = ONE._replace(tenant_id="ten_2")
    for name in (ONE, other):
        faults.note(name, "key_1", "slow")
    faults.forget("ten_1", "pol_1")
    assert faults.in_the_way(ONE, "key_1") is None
    assert faults.in_the_way(other, "key_1") is not None


def test_problems_name_policy_version_reason_and_time_and_end_by_themselves(
    faults: Faults, clock: Clock
) -> None:
    clock.now = 1_795_003_200
    faults.note(ONE, "key_1", "it takes longer than 0.25 s to evaluate")
    (problem,) = faults.problems()
    assert problem == (
        "policy pol_1 version 3 cannot be evaluated: it takes longer than 0.25 s to evaluate"
        " (2026-11-18T12:00:00Z)"
    )
    for number in range(4, 20):
        faults.note(ONE._replace(version=number), "key_1", "slow")
    assert len(faults.problems()) == 11
    assert faults.problems()[-1] == "7 more versions"
    clock.now += 601
    assert faults.problems() == []


def test_faults_are_remembered_in_bounded_number(faults: Faults) -> None:
    for number in range(3000):
        faults.note(ONE._replace(version=number), "key_1", "slow")
    assert len(faults._faults) == 1000
