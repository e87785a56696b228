"""The arguments of a tool call, which a model has written as text, as JSON in a reply."""

from __future__ import annotations

import json
import re

from pydantic_core import from_json, to_json

_BETWEEN_OR_TEXT = re.compile(r'[ \t\r\n]+|"(?:[^"\\]|\\.)*"')
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


def whole_arguments(text: str) -> str | None:
    """The JSON object in `text` on one line, or None where it is none.

    Every number stands as it was written: one of more than 64 bits, or beyond a double, is not
    rounded.
    """
    if not text.strip():
        return "{}"
    try:
        # Numbers are not read: they may have thousands of digits.
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return _BETWEEN_OR_TEXT.sub(_compact, text) if isinstance(value, dict) else None


def in_ascii(document: str) -> str:
    """A JSON document with other characters escaped: events of a stream are lines."""
    return _BEYOND_ASCII.sub(_escaped, document)


def readable_arguments(text: str) -> str:
    """The same; of text that was cut or is no JSON object, as much as can be read of it."""
    whole = whole_arguments(text)
    if whole is not None:
        return whole
    try:
        value = from_json(text, allow_partial=True)
        return to_json(value, inf_nan_mode="null").decode() if isinstance(value, dict) else "{}"
    except ValueError:
        return "{}"


def _compact(found: re.Match[str]) -> str:
    text = found.group()
    return text if text.startswith('"') else ""


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found.group())[1:-1]


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is not JSON")
