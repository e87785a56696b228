"""One line of the examination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` says how `subject` is; `advice` says what to do if it is not well."""

    level: Level
    subject: str
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """The subject is well."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """The subject works, but may not for long."""
    return Finding("warning", subject, text, advice)


def failed(subject: str, text: str, advice: str) -> Finding:
    """Requests will fail, all or some of them."""
    return Finding("failed", subject, text, advice)
