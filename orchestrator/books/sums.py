"""Sums of usage, and which records count in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Grouping = Literal["hour", "day", "key", "model"]


GroupValue = str | int


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which records count. Times in milliseconds; `end_at` is the first moment that does not."""

    tenant_id: str | None = None
    start_at: int | None = None
    end_at: int | None = None
    key_id: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class UsageSum:
    """What the records of one group add up to.

    `group` has a value for each grouping asked for; those of `hour` and `day` are the milliseconds
    at which it begins, in UTC.
    """

    group: Mapping[Grouping, GroupValue]
    requests: int
    failed: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    duration_ms: int
    wasted_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together: what was charged."""
        return self.prompt_tokens + self.completion_tokens
