"""What is remembered stays bounded: the oldest goes first, or what was used longest ago."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.caches import BoundedCache, remember


@given(most=st.integers(2, 12), uses=st.lists(st.integers(0, 30)))
def test_the_half_that_was_used_last_is_there(most: int, uses: list[int]) -> None:
    remembered: BoundedCache[int, str] = BoundedCache(most)
    order: list[int] = []
    for number in uses:
        found = remembered.get(number)
        assert found in {None, f"value {number}"}
        if found is None:
            assert number not in order[-(most // 2 - 1) :] or most // 2 < 2
            remembered.put(number, f"value {number}")
        order = [one for one in order if one != number] + [number]
        assert len(remembered) <= most
        assert len(dict(remembered.items())) == len(remembered)


def test_a_round_over_as_many_as_there_is_room_for_finds_each() -> None:
    remembered: BoundedCache[int, int] = BoundedCache(20_000)
    misses = 0
    for number in list(range(1, 9_999)) * 3:
        if remembered.get(number) is None:
            misses += 1
            remembered.put(number, number)
    assert misses == 9_998


def test_what_is_dropped_is_gone_from_either_half() -> None:
    remembered: BoundedCache[str, int] = BoundedCache(4)
    for name in "abc":
        remembered.put(name, 1)
    for name in "abc":
        remembered.drop(name)
        assert remembered.get(name) is None
    assert len(remembered) == 0


def test_the_oldest_makes_room() -> None:
    known: dict[str, int] = {}
    for number, name in enumerate("abcd"):
        remember(known, name, number, 3)
    assert known == {"b": 1, "c": 2, "d": 3}


def test_what_is_put_in_again_is_new_and_pushes_nobody_out() -> None:
    known = {"a": 1, "b": 2, "c": 3}
    remember(known, "a", 4, 3)
    assert list(known.items()) == [("b", 2), ("c", 3), ("a", 4)]
