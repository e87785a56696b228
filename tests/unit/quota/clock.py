"""A clock that stands still until it is moved."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.limits import UNLIMITED, Limits
from orchestrator.quota import Caller

MORNING = 1_779_715_432.0
"""2026-05-25 13:23:52 UTC, 8 s before the end of its minute."""
DAY = "20260525"


@dataclass
class Clock:
    at: float = MORNING

    def __call__(self) -> float:
        return self.at


def caller(key: Limits = UNLIMITED, tenant: Limits = UNLIMITED, *, key_id: str = "key_1") -> Caller:
    return Caller(key_id, "ten_1", key, tenant)
