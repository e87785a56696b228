"""Values that every administrative act needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Unset(Enum):
    """Marks a field of a change that keeps its value."""

    UNSET = "keep"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and from where. The audit log records it."""

    actor: str
    client_ip: str = ""
    request_id: str = ""
