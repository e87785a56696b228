"""Reasoning that goes back and forth in `encrypted_content`, for clients that keep nothing else.

It is packed, not secret: the same text stands in the item's `content`. What another provider made
cannot be read here and counts as nothing.
"""

from __future__ import annotations

import base64
import binascii

_MARK = "op1."


def packed(text: str) -> str:
    """`text` as one word that callers need not look into."""
    return _MARK + base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode("ascii")


def unpacked(given: str | None) -> str:
    """The text in what `packed` made; nothing for anything else."""
    if given is None or not given.startswith(_MARK):
        return ""
    try:
        return base64.urlsafe_b64decode(given[len(_MARK) :]).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
