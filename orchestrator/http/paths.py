"""Normalises and decodes request paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_NO_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_KEPT = re.compile("%(?=2[5Ff])")
"""Begins an escaped slash or percent sign."""


def plain_path(path: bytes) -> bytes:
    """Removes empty segments from `path`: `//v1//models/` becomes `/v1/models`.

    Clients make them when they join a base URL that ends with a slash to a path that begins with
    one. A slash that is written `%2F` is part of a name and stays. `path` must begin with a slash.
    """
    if b"//" not in path and not path.endswith(b"/"):
        return path
    return b"/" + b"/".join([segment for segment in path.split(b"/") if segment])


def routed_path(path: str) -> str:
    """Decodes `path` for routing, but for `%2F` and `%25`; `name_in_path` decodes these.

    So a slash that is part of a name separates nothing, and no name is decoded twice.
    """
    if "%" not in path:
        return path
    return unquote(_KEPT.sub("%25", _NO_ESCAPE.sub("%25", path)))


def name_in_path(scope: Mapping[str, Any], name: str) -> str:
    """The part of the path that the route calls `name`, decoded."""
    value: str = scope["path_params"][name]
    return unquote(value)
