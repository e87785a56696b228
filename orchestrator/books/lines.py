"""Requests for usage sums and their output: names of groups, columns, page positions."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import assert_never

from orchestrator.books.sums import Grouping, GroupValue, UsageSum
from orchestrator.core.timestamps import format_moment


def parse_groupings(text: str) -> tuple[Grouping, ...]:
    """Parses a list such as `day,key`, each once. Raises: ValueError that names the wrong one."""
    found: list[Grouping] = []
    for name in text.split(","):
        match name.strip():
            case ("hour" | "day" | "key" | "model") as grouping:
                if grouping not in found:
                    found.append(grouping)
            case "":
                continue
            case unknown:
                raise ValueError(f"`{unknown}` is not one of hour, day, key, model")
    return tuple(found)


def cells(sums: UsageSum) -> dict[str, str | int]:
    """Returns one sum for output, by column: groups first, times as RFC 3339 in UTC."""
    groups: dict[str, str | int] = {}
    for name, value in sums.group.items():
        match name:
            case "hour" | "day":
                groups[name] = format_moment(int(value))
            case "key":
                groups["key_id"] = value
            case "model":
                groups["model"] = value
            case _:
                assert_never(name)
    return {
        **groups,
        "requests": sums.requests,
        "failed": sums.failed,
        "cancelled": sums.cancelled,
        "prompt_tokens": sums.prompt_tokens,
        "completion_tokens": sums.completion_tokens,
        "cached_tokens": sums.cached_tokens,
        "total_tokens": sums.total_tokens,
        "duration_ms": sums.duration_ms,
        "wasted_tokens": sums.wasted_tokens,
    }


def columns(by: Sequence[Grouping]) -> list[str]:
    """Returns the names of the columns of `cells`."""
    return list(cells(UsageSum(dict.fromkeys(by, 0), 0, 0, 0, 0, 0, 0, 0, 0)))


def format_place(sums: UsageSum) -> str:
    """Returns the end position of a page, for requests of the next page. Opaque to clients."""
    values = json.dumps(list(sums.group.values()), separators=(",", ":"))
    return base64.urlsafe_b64encode(values.encode()).decode().rstrip("=")


def parse_place(text: str, by: Sequence[Grouping]) -> tuple[GroupValue, ...]:
    """Parses the text of `format_place` for a page with these groups. Raises: ValueError."""
    try:
        values = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        values = None
    kinds = [int if name in {"hour", "day"} else str for name in by]
    is_good = (
        isinstance(values, list)
        and len(values) == len(kinds) > 0
        and all(type(value) is kind for value, kind in zip(values, kinds, strict=True))
        and all(abs(value) < 2**63 for value in values if isinstance(value, int))
        and not any("\0" in value for value in values if isinstance(value, str))
    )
    if not is_good:
        raise ValueError("is not where a page with these groups ended")
    return tuple(values)
