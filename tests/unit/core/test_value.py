"""Values compare by what they hold, and hold nothing else."""

from __future__ import annotations

from dataclasses import field, replace

import pytest

from orchestrator.core.value import value


@value
class Point:
    """A place in the plane."""

    x: int
    y: int = 0
    names: tuple[str, ...] = field(default=())


def test_equal_values_are_one_key() -> None:
    assert Point(1) == Point(1, 0) != Point(2)
    assert len({Point(1), Point(1), Point(2)}) == 2
    assert replace(Point(1), y=3) == Point(1, 3)


def test_a_value_takes_nothing_that_it_was_not_made_for() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 2  # type: ignore[attr-defined]


def test_a_value_can_be_taken_apart() -> None:
    match Point(1, 2):
        case Point(1, y=y):
            assert y == 2
        case _:
            pytest.fail("it is a point")
