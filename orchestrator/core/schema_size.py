"""How large a JSON schema may be. This is checked before anything else reads the schema."""

from __future__ import annotations

from typing import Any

from orchestrator.core.errors import InvalidRequest

MAX_CHARACTERS = 262_144
"""Max characters of names and values; each value counts four more, for its punctuation in JSON."""
MAX_LEVELS = 100
"""Max nesting of objects and lists. Engines read JSON no deeper than 128."""
_PUNCTUATION = 4


def check_size(schema: Any, where: str) -> None:
    """Refuses a schema that is too large. Reads nothing beyond the limit.

    Raises: InvalidRequest.
    """
    characters, levels = size(schema)
    check_characters(characters, where)
    check_levels(levels, where)


def check_characters(characters: int, where: str) -> None:
    """Refuses a schema with too many `characters`. Raises: InvalidRequest."""
    if characters > MAX_CHARACTERS:
        raise InvalidRequest(
            f"`{where}` is too large: a schema may have {MAX_CHARACTERS} characters;"
            f" it has {characters} at least.",
            param=where,
        )


def check_levels(levels: int, where: str) -> None:
    """Refuses a schema with too many `levels`. Raises: InvalidRequest."""
    if levels > MAX_LEVELS:
        raise InvalidRequest(
            f"`{where}` is nested too deeply: a schema may have {MAX_LEVELS} levels of objects"
            f" and lists; it has {levels} at least.",
            param=where,
        )


def size(value: Any) -> tuple[int, int]:
    """Counts characters and levels of a JSON value; counting stops a little above a limit."""
    characters = levels = 0
    level = [value]
    while level and levels <= MAX_LEVELS:
        deeper: list[Any] = []
        for one in level:
            if isinstance(one, str):
                characters += len(one)
            elif isinstance(one, dict | list):
                characters += own_size(one)
                if characters > MAX_CHARACTERS:
                    return characters, levels
                deeper += one.values() if isinstance(one, dict) else one
        level = deeper
        levels += bool(deeper)
    return characters, levels


def own_size(container: dict[str, Any] | list[Any]) -> int:
    """Counts the characters of an object or a list without those of its values."""
    punctuation = _PUNCTUATION * len(container)
    if punctuation > MAX_CHARACTERS or not isinstance(container, dict):
        return punctuation
    return punctuation + len("".join(container))
