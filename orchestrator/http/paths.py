"""Normalises request paths."""

from __future__ import annotations


def plain_path(path: bytes) -> bytes:
    """Removes empty segments from `path`: `//v1//models/` becomes `/v1/models`.

    Clients make them when they join a base URL that ends with a slash to a path that begins with
    one. A slash that is written `%2F` is part of a name and stays. `path` must begin with a slash.
    """
    if b"//" not in path and not path.endswith(b"/"):
        return path
    return b"/" + b"/".join([segment for segment in path.split(b"/") if segment])
