"""Blocks of prompts, and who is remembered to have them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from orchestrator.backends.triton.affinity import Affinity, blocks_of, preference
from orchestrator.settings import PROJECT_ROOT

ONE, OTHER, THIRD = 1, 2, 4
ALL = ONE | OTHER | THIRD


def test_a_longer_prompt_begins_with_the_blocks_of_its_beginning() -> None:
    short, long = list(range(200)), [*range(200), *range(90)]
    assert len(blocks_of(short, 64)) == 3
    assert list(blocks_of(long, 64))[:3] == list(blocks_of(short, 64))


def test_a_block_is_another_one_after_another_beginning() -> None:
    first, second = blocks_of([1] * 128, 64), blocks_of([2] * 64 + [1] * 64, 64)
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    ("tokens_per_block", "prompt_tokens", "blocks"),
    [(0, 128, 2), (16, 128, 2), (64, 127, 1), (48, 128, 1), (128, 256, 2)],
)
def test_blocks_are_whole_blocks_of_the_engine(
    tokens_per_block: int, prompt_tokens: int, blocks: int
) -> None:
    assert len(blocks_of(range(prompt_tokens), tokens_per_block)) == blocks


def test_a_prompt_without_a_block_has_one_name() -> None:
    assert blocks_of([5, 6], 64) == blocks_of((5, 6), 64)
    assert blocks_of([5, 6], 64) != blocks_of([5, 7], 64)


@pytest.mark.parametrize("prompt", [range(5), range(300)])
def test_blocks_of_one_salt_are_none_of_another(prompt: range) -> None:
    first, second, none = (set(blocks_of(prompt, 64, salt)) for salt in (7, 8, 0))
    assert not first & second
    assert not first & none
    assert set(blocks_of(prompt, 64, 7)) == first


def test_another_process_gives_the_same_names_and_prefers_the_same_server() -> None:
    ids = list(range(500))
    program = (
        "from orchestrator.backends.triton.affinity import blocks_of, preference;"
        "names = blocks_of(list(range(500)), 64);"
        "print(names, preference(names[0], 'a'))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = blocks_of(ids, 64)
    assert told.strip() == f"{names} {preference(names[0], 'a')}"


def test_the_longest_beginning_wins() -> None:
    affinity, blocks = Affinity(100), blocks_of(range(640), 64)
    affinity.remember(blocks[:2], ONE)
    affinity.remember(blocks[:5], OTHER)
    assert affinity.longest(blocks, ALL) == OTHER
    assert affinity.longest(blocks[:2], ALL) == ONE | OTHER
    assert affinity.longest(blocks, ONE | THIRD) == ONE
    assert affinity.longest(blocks, THIRD) == 0


def test_nothing_is_found_of_a_prompt_that_begins_otherwise() -> None:
    affinity = Affinity(100)
    affinity.remember(blocks_of(range(640), 64), ONE)
    assert affinity.longest(blocks_of(range(1, 641), 64), ALL) == 0


def test_what_was_used_last_is_kept_and_beginnings_outlive_ends() -> None:
    affinity = Affinity(4)
    first, second = [1, 2, 3], [7, 8, 9]
    affinity.remember(first, ONE)
    affinity.remember(second, OTHER)
    assert len(affinity) == 4
    assert affinity.longest(second, ALL) == OTHER
    assert affinity.longest(first, ALL) == ONE
    assert affinity.longest(first[1:], ALL) == 0
    affinity.remember(first, ONE)
    assert affinity.longest(second[:1], ALL) == OTHER
    assert affinity.longest(second[1:], ALL) == 0


def test_servers_are_preferred_about_equally() -> None:
    names = ("a", "b", "c")
    won = Counter(max(names, key=lambda one: preference(block, one)) for block in range(3000))
    assert all(900 < won[name] < 1100 for name in names)


def test_a_server_that_goes_takes_only_its_own_prompts_along() -> None:
    for block in range(200):
        best = max("abc", key=lambda one: preference(block, one))
        if best != "c":
            assert max("ab", key=lambda one: preference(block, one)) == best
