from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from build_engines.cpu.blocks import BlockPool, prefix_digests


def test_only_full_blocks_have_a_digest_and_it_covers_all_before_it() -> None:
    first = prefix_digests([1, 2, 3, 4, 5], 2)
    other = prefix_digests([9, 2, 3, 4, 5], 2)
    assert len(first) == 2
    assert first[0] != other[0]
    assert first[1] != other[1]
    assert first == prefix_digests([1, 2, 3, 4], 2)


def test_no_digest_of_one_salt_is_one_of_another() -> None:
    digests = {salt: prefix_digests(range(6), 2, salt) for salt in (0, 1, 2**64 - 1)}
    assert len({one for each in digests.values() for one in each}) == 9
    assert digests[1] == prefix_digests(range(7), 2, 1)


def test_a_published_prefix_is_shared_and_counted() -> None:
    pool = BlockPool(4)
    digests = prefix_digests(range(4), 2)
    one = pool.reserve(digests, 3)
    assert one is not None
    assert one.reused == 0
    pool.publish(one.blocks[0], digests[0])
    pool.publish(one.blocks[1], digests[1])
    two = pool.reserve(digests, 3)
    assert two is not None
    assert two.reused == 2
    assert two.blocks[:2] == one.blocks[:2]
    assert pool.available == 0


def test_too_few_blocks_reserve_nothing_at_all() -> None:
    pool = BlockPool(3)
    assert pool.reserve([], 2) is not None
    assert pool.reserve([], 2) is None
    assert pool.available == 1


def test_a_shared_idle_block_is_not_counted_as_free_as_well() -> None:
    pool = BlockPool(2)
    digests = prefix_digests(range(2), 2)
    held = pool.reserve(digests, 1)
    assert held is not None
    pool.publish(held.blocks[0], digests[0])
    pool.release(held.blocks)
    assert pool.available == 2
    assert pool.reserve(digests, 3) is None
    again = pool.reserve(digests, 2)
    assert again is not None
    assert again.reused == 1


def test_the_least_recently_used_prefix_is_evicted_first_and_from_its_end() -> None:
    pool = BlockPool(4)
    old, new = prefix_digests([1, 2], 1), prefix_digests([3, 4], 1)
    for digests in (old, new):
        held = pool.reserve(digests, 2)
        assert held is not None
        for block, digest in zip(held.blocks, digests, strict=True):
            pool.publish(block, digest)
        pool.release(held.blocks)
    taken = pool.reserve([], 1)
    assert taken is not None
    kept = pool.reserve(old, 2)
    assert kept is not None
    assert kept.reused == 1  # its second block went
    other = pool.reserve(new[:1], 1)
    assert other is not None
    assert other.reused == 1


def test_without_reuse_nothing_is_found() -> None:
    pool = BlockPool(2, reuse=False)
    digests = prefix_digests([1], 1)
    held = pool.reserve(digests, 1)
    assert held is not None
    pool.publish(held.blocks[0], digests[0])
    pool.release(held.blocks)
    again = pool.reserve(digests, 1)
    assert again is not None
    assert again.reused == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 5)), max_size=60))
def test_blocks_are_neither_lost_nor_given_out_twice(steps: list[tuple[bool, int, int]]) -> None:
    pool = BlockPool(8)
    held: list[list[int]] = []
    for take, family, count in steps:
        digests = prefix_digests([family] * count, 1)
        if take:
            reservation = pool.reserve(digests[:-1], count)
            if reservation is None:
                continue
            for block, digest in zip(reservation.blocks, digests, strict=True):
                pool.publish(block, digest)
            held.append(reservation.blocks)
        elif held:
            pool.release(held.pop(family % len(held)))
        in_use = {block for blocks in held for block in blocks}
        assert len(in_use) + pool.available == 8
    for blocks in held:
        assert len(set(blocks)) == len(blocks)
