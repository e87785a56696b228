"""What each key uses, for as many keys as the settings allow.

The books have everything of every key, exactly and permanently. This is for monitoring: the keys
that called last have their own series, the others are counted together. A key that was quiet for
`IDLE_S` is replaced by one that is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.telemetry.instruments import OTHER, Labels, Observed, Registry, Spec

IDLE_S = 3600.0
_LABELS = ("tenant", "key")
_BUDGETS = ("requests", "tokens")


@dataclass(slots=True)
class _Use:
    """One key's values. `headers` are the limits from its last reply."""

    tenant: str
    key: str
    label: str
    used_at: float = 0.0
    requests: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=lambda: {"input": 0, "output": 0})
    refusals: dict[str, int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class KeyUse:
    """Counts per key in this process; read when metrics are scraped."""

    def __init__(
        self, registry: Registry, most: int, *, now: Callable[[], float] = time.time
    ) -> None:
        self._most = most
        self._now = now
        self._uses: dict[str, _Use] = {}
        self._others = _Use(OTHER, OTHER, OTHER)
        for name, unit, meaning, more, look in (
            ("requests", "{request}", "Requests that were let in", ("outcome",), self._requests),
            ("tokens", "{token}", "Tokens used", ("type",), self._tokens),
            ("refusals", "{request}", "Requests refused", ("reason",), self._refusals),
        ):
            labels = (*_LABELS, *more)
            spec = Spec(f"orchestrator.key.{name}", "counter", unit, f"{meaning}, by key.", labels)
            registry.observe(spec, look)
        for name, meaning, look in (
            ("limit", "granted", self._limits),
            ("remaining", "left", self._remaining),
        ):
            description = f"What the tightest budget of a key has {meaning}, as last told to it."
            labels = (*_LABELS, "budget")
            spec = Spec(f"orchestrator.key.budget.{name}", "gauge", "", description, labels)
            registry.observe(spec, look)
        labels = (*_LABELS, "label")
        registry.observe(
            Spec("orchestrator.key.info", "gauge", "", "The label of a key.", labels), self._labels
        )

    def ended(
        self, tenant: str, key: str, label: str, outcome: str, tokens: tuple[int, int]
    ) -> None:
        """Counts a request that was admitted and is settled; `tokens` are of prompt and answer."""
        use = self._use(tenant, key, label)
        use.requests[outcome] = use.requests.get(outcome, 0) + 1
        use.tokens["input"] += tokens[0]
        use.tokens["output"] += tokens[1]

    def refused(self, tenant: str, key: str, label: str, reason: str) -> None:
        """Counts a refused request; `reason` is one of the reasons of the errors."""
        use = self._use(tenant, key, label)
        use.refusals[reason] = use.refusals.get(reason, 0) + 1

    def limits(self, tenant: str, key: str, label: str, headers: Mapping[str, str]) -> None:
        """Records the key's limits from a reply."""
        if headers:
            self._use(tenant, key, label).headers = headers

    def _use(self, tenant: str, key: str, label: str) -> _Use:
        now = self._now()
        use = self._uses.pop(key, None)
        if use is None:
            if not self._has_room(now):
                return self._others
            use = _Use(tenant, key, label)
        # The one that was used last is the last in the dictionary.
        self._uses[key] = use
        use.used_at = now
        use.label = label
        return use

    def _has_room(self, now: float) -> bool:
        if len(self._uses) < self._most:
            return True
        if not self._uses:
            return False
        quiet = next(iter(self._uses))
        if now - self._uses[quiet].used_at < IDLE_S:
            return False
        del self._uses[quiet]
        return True

    def _all(self) -> list[_Use]:
        others = [self._others] if self._others.requests or self._others.refusals else []
        return [*self._uses.values(), *others]

    def _requests(self) -> Observed:
        return _rows((use, use.requests) for use in self._all())

    def _tokens(self) -> Observed:
        return _rows((use, use.tokens) for use in self._all())

    def _refusals(self) -> Observed:
        return _rows((use, use.refusals) for use in self._all())

    def _labels(self) -> Observed:
        return [((use.tenant, use.key, use.label), 1.0) for use in self._uses.values()]

    def _limits(self) -> Observed:
        return [(labels, limit) for labels, limit, _ in self._budgets()]

    def _remaining(self) -> Observed:
        return [(labels, left) for labels, _, left in self._budgets()]

    def _budgets(self) -> list[tuple[Labels, float, float]]:
        now = self._now()
        return [
            ((use.tenant, use.key, budget), *state)
            for use in self._uses.values()
            for budget in _BUDGETS
            if (state := _budget(use.headers, budget, now)) is not None
        ]


def _rows(uses: Iterable[tuple[_Use, Mapping[str, int]]]) -> list[tuple[Labels, float]]:
    return [
        ((use.tenant, use.key, word), float(count))
        for use, counts in uses
        for word, count in counts.items()
    ]


def _budget(headers: Mapping[str, str], budget: str, now: float) -> tuple[float, float] | None:
    """Returns limit and remainder. After its reset time the whole limit is available again."""
    if (limit := headers.get(f"x-ratelimit-limit-{budget}")) is None:
        return None
    is_over = now >= float(headers[f"x-ratelimit-reset-{budget}"])
    left = limit if is_over else headers[f"x-ratelimit-remaining-{budget}"]
    return float(limit), float(left)
