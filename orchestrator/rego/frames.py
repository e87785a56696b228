"""The frames between an evaluator and its parent: JSON, preceded by its length."""

from __future__ import annotations

import json
import struct
from typing import Any

HEAD = struct.Struct(">I")
MAX_REPLY_BYTES = 256 * 1024


def packed(message: Any) -> bytes:
    """Returns one frame. Raises: ValueError, RecursionError when JSON cannot hold `message`."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return HEAD.pack(len(body)) + body
