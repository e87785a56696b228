"""Sums of usage, and which records they include."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Grouping = Literal["hour", "day", "key", "model"]


GroupValue = str | int


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which records count. Times are in milliseconds; `end_at` is excluded."""

    tenant_id: str | None = None
    start_at: int | None = None
    end_at: int | None = None
    key_id: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The sum of the records of one group.

    `group` has a value for each requested grouping; for `hour` and `day` it is the start in
    milliseconds, in UTC.
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
        """Prompt and completion tokens together: the tokens charged."""
        return self.prompt_tokens + self.completion_tokens
