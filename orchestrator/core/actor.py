"""Words that every administrative act needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Unset(Enum):
    """Stands in a change for what is not to change."""

    UNSET = "keep"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and from where; for the audit."""

    actor: str
    client_ip: str = ""
    request_id: str = ""
