"""The arguments of a call as an object, for the dialects that do not tell them as text."""

from __future__ import annotations

import json
from typing import Any

import orjson
from pydantic_core import from_json


def arguments_object(text: str, *, cut: bool = False) -> dict[str, Any] | None:
    """The object in arguments as a model wrote them, its numbers exact; `None` where it is none.

    Empty arguments are an object without members. With `cut` as much as there is of a call that
    was cut.
    """
    if not text.strip():
        return {}
    try:
        value = from_json(text, allow_partial=cut, allow_inf_nan=False)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def reply_body(document: dict[str, Any]) -> bytes:
    """The JSON of a reply that may hold numbers of any length: models write such, too."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        # Infinity, which is no JSON, is null as orjson has it.
        finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
        return json.dumps(finite, ensure_ascii=False, separators=(",", ":")).encode()
