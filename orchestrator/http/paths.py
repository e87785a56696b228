"""Paths as they are meant."""

from __future__ import annotations


def plain_path(path: bytes) -> bytes:
    """`path` without empty segments: `//v1//models/` is `/v1/models`.

    Clients make them by joining a base address that ends with a slash to a path that begins with
    one. A slash that is written `%2F` is part of a name and stays. `path` begins with a slash.
    """
    if b"//" not in path and not path.endswith(b"/"):
        return path
    return b"/" + b"/".join([segment for segment in path.split(b"/") if segment])
