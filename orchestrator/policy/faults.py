"""Policy versions that could not be evaluated, and when each may be tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from orchestrator.core.caches import remember

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_FORGOTTEN_AFTER_S = 600.0
"""A fault that did not occur again for this long is dropped."""
_MAX_KEYS = 3
"""With faults for this many keys, the whole version must wait."""
_MAX_FAULTS = 1000
_MAX_NAMED = 10
_EVERY_KEY = ""


class Name(NamedTuple):
    """One version of a policy."""

    tenant_id: str
    policy_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A failed evaluation. `at` is in Unix seconds, `retry_at` by the monotonic clock."""

    reason: str
    at: float
    retry_at: float
    wait_s: float


class Faults:
    """Stores faults by version and key: a module may fail only for the label of one key."""

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self._faults: dict[tuple[Name, str], Fault] = {}

    def in_the_way(self, name: Name, key_id: str) -> tuple[Fault, float] | None:
        """Returns the fault that delays an evaluation, and the seconds still to wait."""
        if not self._faults:
            return None
        for key in (_EVERY_KEY, key_id):
            fault = self._faults.get((name, key))
            if fault is not None and (left_s := fault.retry_at - self._monotonic()) > 0:
                return fault, left_s
        return None

    def note(self, name: Name, key_id: str, reason: str) -> tuple[Fault, bool]:
        """Records a fault. Returns it and whether it is the version's first."""
        known = self._of(name)
        fault = self._noted(name, key_id, reason)
        others = known.keys() - {_EVERY_KEY, key_id}
        if len(others) + 1 >= _MAX_KEYS:
            self._noted(name, _EVERY_KEY, reason)
        return fault, not known

    def answered(self, name: Name, key_id: str) -> bool:
        """Records a successful evaluation; returns whether that ends the version's last fault."""
        if not self._faults:
            return False
        found = [self._faults.pop((name, key), None) for key in (_EVERY_KEY, key_id)]
        return any(found) and not self._of(name)

    def forget(self, tenant_id: str, policy_id: str) -> None:
        """Drops the faults of every version of that policy."""
        for name, key in list(self._faults):
            if name[:2] == (tenant_id, policy_id):
                del self._faults[name, key]

    def problems(self) -> list[str]:
        """Returns a line for each version with a fault: policy, number, reason and start time."""
        oldest = self._now() - _FORGOTTEN_AFTER_S
        self._faults = {key: fault for key, fault in self._faults.items() if fault.at > oldest}
        latest = {name: fault for (name, _), fault in self._faults.items()}
        lines = [
            f"policy {name.policy_id} version {name.version} cannot be evaluated:"
            f" {fault.reason} ({datetime.fromtimestamp(fault.at, UTC):%Y-%m-%dT%H:%M:%SZ})"
            for name, fault in list(latest.items())[:_MAX_NAMED]
        ]
        more = len(latest) - len(lines)
        return [*lines, f"{more} more versions"] if more else lines

    def _noted(self, name: Name, key_id: str, reason: str) -> Fault:
        before = self._faults.get((name, key_id))
        wait_s = _FIRST_WAIT_S if before is None else min(2 * before.wait_s, _LONGEST_WAIT_S)
        fault = Fault(reason, self._now(), self._monotonic() + wait_s, wait_s)
        remember(self._faults, (name, key_id), fault, _MAX_FAULTS)
        return fault

    def _of(self, name: Name) -> dict[str, Fault]:
        return {key: fault for (other, key), fault in self._faults.items() if other == name}
