"""One line of the examination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` says how `subject` is, and `advice` what to do where it is not well."""

    level: Level
    subject: str
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """It works, and may not for long."""
    return Finding("warning", subject, text, advice)


def failed(subject: str, text: str, advice: str) -> Finding:
    """Requests will not succeed, or not all of them."""
    return Finding("failed", subject, text, advice)
