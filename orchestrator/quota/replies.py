"""What a caller is told of its limits: headers, and the error when one is reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import assert_never

from orchestrator.core.errors import RateLimited
from orchestrator.core.limits import LimitHit
from orchestrator.quota.counters import CONCURRENCY_RETRY_S, DAY_S, WINDOW_S


def reply_headers(hits: Sequence[LimitHit], now: float) -> dict[str, str]:
    """Headers for the tighter of key and tenant. Requests at the same time have none.

    Source: OpenAI's `x-ratelimit-*`, with a reset in Unix seconds; draft-ietf-httpapi-ratelimit-
    headers-11 for the other two.
    """
    headers: dict[str, str] = {}
    policies: list[str] = []
    states: list[str] = []
    for kind, noun, window_s in (("rpm", "requests", WINDOW_S), ("tpd", "tokens", DAY_S)):
        of_kind = [hit for hit in hits if hit.kind == kind]
        if not of_kind:
            continue
        hit = min(of_kind, key=lambda hit: hit.remaining)
        headers[f"x-ratelimit-limit-{noun}"] = str(hit.limit)
        headers[f"x-ratelimit-remaining-{noun}"] = str(hit.remaining)
        headers[f"x-ratelimit-reset-{noun}"] = str(hit.reset_at)
        policies.append(f'"{kind}";q={hit.limit};w={window_s}')
        states.append(f'"{kind}";r={hit.remaining};t={max(0, hit.reset_at - int(now))}')
    if policies:
        headers["ratelimit-policy"] = ", ".join(policies)
        headers["ratelimit"] = ", ".join(states)
    return headers


def refusal(hit: LimitHit, cost: int, now: float, headers: Mapping[str, str]) -> RateLimited:
    """The error of a request that would have cost `cost` and met `hit`."""
    whose = "key's" if hit.scope == "key" else "tenant's"
    match hit.kind:
        case "rpm":
            message = (
                f"The {whose} limit of {hit.limit} requests a minute is reached;"
                f" it resets at {_clock(hit.reset_at)}."
            )
        case "concurrency":
            message = (
                f"The {whose} limit of {hit.limit} requests at the same time is reached;"
                " try again when one of them has ended."
            )
        case "tpd":
            message = (
                f"The request may cost {cost} tokens, and {hit.remaining} of the {whose}"
                f" {hit.limit} tokens a day are left; it resets at {_clock(hit.reset_at)}."
            )
        case _:
            assert_never(hit.kind)
    wait_s = CONCURRENCY_RETRY_S if hit.kind == "concurrency" else max(0.001, hit.reset_at - now)
    return RateLimited(
        message,
        hit=hit,
        headers=headers,
        retry_after_s=wait_s,
        # Clients would otherwise sit out a wait of hours, or try again in vain all the time.
        retryable=False if hit.kind == "tpd" else None,
    )


def _clock(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")
