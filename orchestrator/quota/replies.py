"""Reports limits to the caller: the headers, and the error when a limit is reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import assert_never

from orchestrator.core.errors import RateLimited
from orchestrator.core.limits import LimitHit
from orchestrator.quota.counters import CONCURRENCY_RETRY_S, DAY_S, WINDOW_S, Claim

_TOLD = (("rpm", "requests", WINDOW_S), ("tpd", "tokens", DAY_S))


def reply_headers(claims: Sequence[Claim], counts: Sequence[int], now: float) -> dict[str, str]:
    """Returns headers for the tighter of key and tenant. Concurrent requests have none.

    `counts` holds the count of each of `claims`. Source: OpenAI's `x-ratelimit-*`, with a reset
    in Unix seconds; draft-ietf-httpapi-ratelimit-headers-11 for the other two.
    """
    headers: dict[str, str] = {}
    policies = states = ""
    for kind, noun, window_s in _TOLD:
        tightest, least = None, 0
        for claim, count in zip(claims, counts, strict=True):
            if claim.counter.kind == kind:
                left = claim.limit - count
                if tightest is None or left < least:
                    tightest, least = claim, max(0, left)
        if tightest is None:
            continue
        limit, reset_at = tightest.limit, tightest.reset_at
        headers[f"x-ratelimit-limit-{noun}"] = str(limit)
        headers[f"x-ratelimit-remaining-{noun}"] = str(least)
        headers[f"x-ratelimit-reset-{noun}"] = str(reset_at)
        comma = ", " if policies else ""
        wait_s = max(0, reset_at - int(now))
        policies += f'{comma}"{kind}";q={limit};w={window_s}'
        states += f'{comma}"{kind}";r={least};t={wait_s}'
    if policies:
        headers["ratelimit-policy"] = policies
        headers["ratelimit"] = states
    return headers


def refusal(hit: LimitHit, cost: int, now: float, headers: Mapping[str, str]) -> RateLimited:
    """Returns the error of a call of cost `cost` that reached the limit `hit`."""
    whose = "key's" if hit.scope == "key" else "tenant's"
    # A cost above the whole limit will not fit later either.
    fits_later = hit.kind != "tpd" and cost <= hit.limit
    match hit.kind:
        case "rpm" if cost > 1:
            message = (
                f"The call counts as {cost} requests, and {hit.remaining} of the {whose}"
                f" {hit.limit} requests a minute are left; it resets at {_clock(hit.reset_at)}."
            )
        case "rpm":
            message = (
                f"The {whose} limit of {hit.limit} requests a minute is reached;"
                f" it resets at {_clock(hit.reset_at)}."
            )
        case "concurrency" if cost > 1:
            message = (
                f"The call counts as {cost} requests, and {hit.remaining} of the {whose}"
                f" {hit.limit} requests at the same time are left."
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
        # Otherwise clients would wait for hours, or retry without success all the time.
        retryable=None if fits_later else False,
    )


def _clock(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")
