"""What is remembered stays bounded, and the oldest goes first."""

from __future__ import annotations

from orchestrator.core.remembered import remember


def test_the_oldest_makes_room() -> None:
    known: dict[str, int] = {}
    for number, name in enumerate("abcd"):
        remember(known, name, number, 3)
    assert known == {"b": 1, "c": 2, "d": 3}


def test_what_is_put_in_again_is_new_and_pushes_nobody_out() -> None:
    known = {"a": 1, "b": 2, "c": 3}
    remember(known, "a", 4, 3)
    assert list(known.items()) == [("b", 2), ("c", 3), ("a", 4)]
