"""Text in place of what a model that reads text cannot be shown."""

from __future__ import annotations

_MOST_SHOWN = 64


def instead_of(kind: object) -> str:
    """What stands for a part of that type in a tool's result, where the part is no text.

    A result that was refused for it would end an agent's session, which sends it again with every
    turn.
    """
    word = kind if isinstance(kind, str) else "part"
    return f"[{word[:_MOST_SHOWN]} left out: this model reads text only]"
