"""Identifiers."""

from __future__ import annotations

import os
import re
from collections import Counter

import pytest

from orchestrator.core.ids import new_chance, new_id


def test_ids_are_distinct_and_well_formed() -> None:
    ids = {new_id("req") for _ in range(2000)}
    assert len(ids) == 2000
    assert all(re.fullmatch(r"req_[0-9A-HJKMNP-TV-Z]{26}", value) for value in ids)


def test_ids_sort_by_the_millisecond_they_were_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    early = new_id("req")
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_001_000_000)
    assert early < new_id("req")


def test_the_first_characters_are_the_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    # The example of the ULID specification.
    monkeypatch.setattr("time.time_ns", lambda: 1_469_918_176_385_000_000)
    assert new_id("req").startswith("req_01ARYZ6S41")


def test_a_forked_process_makes_ids_of_its_own() -> None:
    new_chance()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_chance().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{16}", theirs)
    assert theirs not in {new_chance() for _ in range(1000)}


def test_every_character_comes_as_often() -> None:
    counts = Counter("".join(new_chance() for _ in range(4000)))
    assert len(counts) == 32
    assert all(1700 < count < 2300 for count in counts.values())
