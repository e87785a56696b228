"""Bytes in memory: who may have how many."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import Overloaded, RateLimited
from orchestrator.core.shares import Shares


def test_a_tenant_has_its_share_and_all_of_them_no_more_than_there_is() -> None:
    shares = Shares(100, 60)
    one = shares.lease("a", 60)
    with pytest.raises(
        RateLimited, match="may hold 60 bytes at the same time; they hold 60"
    ) as own:
        shares.lease("a", 1)
    assert own.value.retry_after_s == 1
    shares.lease("b", 40)
    with pytest.raises(Overloaded, match="may hold 100 bytes at the same time") as full:
        shares.lease("c", 1)
    assert full.value.retry_after_s == 1
    one.release()
    one.release()
    assert (shares.total, shares.held_by("a"), shares.held_by("b")) == (40, 0, 40)
    shares.lease("a", 60)


def test_a_lease_that_cannot_grow_keeps_what_it_has() -> None:
    shares = Shares(100, 60)
    lease = shares.lease("a", 50)
    with pytest.raises(RateLimited):
        lease.resize(61)
    assert (lease.size, shares.total) == (50, 50)
    lease.resize(10)
    lease.grow(5)
    assert (lease.size, shares.held_by("a")) == (15, 15)
    lease.release()
    assert shares.total == 0
