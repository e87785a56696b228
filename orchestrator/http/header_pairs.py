"""Converts reply headers to the form that ASGI requires."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from orchestrator.http.errors import Headers

_NOT_SHOWN = re.compile(r"[^\x20-\x7e]")


def header_pairs(headers: Mapping[str, str]) -> Headers:
    """Headers in ASGI's form. Characters that a value may not have are replaced."""
    if not headers:
        return []
    names, values = _header_names(tuple(headers)), headers.values()
    text = "".join(values)
    if text.isascii() and text.isprintable():
        # No value has a line end in it, so all of them are encoded in one step.
        return list(zip(names, "\n".join(values).encode().split(b"\n"), strict=True))
    return list(zip(names, map(_one_line, values), strict=True))


@lru_cache(maxsize=256)
def _header_names(given: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple([name.lower().encode("latin-1") for name in given])


def _one_line(value: str) -> bytes:
    return _NOT_SHOWN.sub("?", value).encode("ascii")
