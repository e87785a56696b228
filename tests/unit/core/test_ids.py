"""Identifiers."""

from __future__ import annotations

import re

import pytest

from orchestrator.core.ids import new_id


def test_ids_are_distinct_and_well_formed() -> None:
    ids = {new_id("req") for _ in range(2000)}
    assert len(ids) == 2000
    assert all(re.fullmatch(r"req_[0-9A-HJKMNP-TV-Z]{26}", value) for value in ids)


def test_ids_sort_by_the_millisecond_they_were_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    early = new_id("req")
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_001_000_000)
    assert early < new_id("req")
