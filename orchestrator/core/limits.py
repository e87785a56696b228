"""How much one caller may do. `None` means unlimited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Bucket = Literal["chat", "images", "count"]
"""Which requests count together. `count`: calls that only count tokens and generate nothing.
`images`: image requests. `chat`: everything else."""

COUNTS_FOR_ONE = 10
"""Calls that only count tokens have a limit of their own: this many for each request of `rpm`.
They use no tokens and do not count as concurrent requests."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests per minute by bucket, tokens per UTC day, concurrent requests."""

    rpm: int | None = None
    images_rpm: int | None = None
    tpd: int | None = None
    concurrency: int | None = None


UNLIMITED = Limits()


def tighter(one: Limits, other: Limits) -> Limits:
    """Takes the smaller of each limit."""
    if one == UNLIMITED or other == UNLIMITED:
        return other if one == UNLIMITED else one
    return Limits(
        rpm=_smaller(one.rpm, other.rpm),
        images_rpm=_smaller(one.images_rpm, other.images_rpm),
        tpd=_smaller(one.tpd, other.tpd),
        concurrency=_smaller(one.concurrency, other.concurrency),
    )


def _smaller(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


@dataclass(frozen=True, slots=True)
class LimitHit:
    """The limit that refused a request. `reset_at` is in Unix seconds."""

    scope: Literal["key", "tenant"]
    kind: Literal["rpm", "tpd", "concurrency"]
    limit: int
    remaining: int
    reset_at: int
