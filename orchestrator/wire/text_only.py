"""Text in place of what a model that reads text cannot be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_SHOWN = 64


def instead_of(part: Mapping[str, Any]) -> str:
    """What stands for a part of a tool's result that is no text: its type, and nothing of it.

    A result that were refused for it would end a session of an agent, which sends it again with
    every turn.
    """
    kind = part.get("type")
    word = kind if isinstance(kind, str) else "part"
    return f"[{word[:_MOST_SHOWN]} left out: this model reads text only]"
