"""The plans: default limits, which explicit numbers override.

Source: the platform's API reference, rate limits (requests a minute, chat-like and images).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from orchestrator.core.limits import UNLIMITED, Limits

Plan = Literal["free", "standard", "pro", "enterprise"]

PLANS: Mapping[str, Limits] = MappingProxyType(
    {
        "free": Limits(rpm=10, images_rpm=5),
        "standard": Limits(rpm=60, images_rpm=20),
        "pro": Limits(rpm=300, images_rpm=60),
        "enterprise": UNLIMITED,
    }
)


def limits_of(plan: str | None, explicit: Limits) -> Limits:
    """`explicit`, with the plan's number for each limit that `explicit` leaves unset."""
    template = PLANS.get(plan, UNLIMITED) if plan is not None else UNLIMITED
    if template is UNLIMITED:
        return explicit
    return Limits(
        rpm=template.rpm if explicit.rpm is None else explicit.rpm,
        images_rpm=template.images_rpm if explicit.images_rpm is None else explicit.images_rpm,
        tpd=template.tpd if explicit.tpd is None else explicit.tpd,
        concurrency=template.concurrency if explicit.concurrency is None else explicit.concurrency,
    )
