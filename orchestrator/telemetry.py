"""Logging, and the seam where traces and metrics will be.

Logs go to standard error, one line each. They hold no prompt, no completion and no key.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.settings import LoggingSettings

_requests = logging.getLogger("orchestrator.requests")
_stages = logging.getLogger("orchestrator.stages")


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What is told of a finished HTTP request. A `status` of 499 means that the client left."""

    request_id: str
    method: str
    path: str
    status: int
    duration_s: float
    key_id: str = "-"
    model: str = "-"
    prompt_tokens: int = 0
    completion_tokens: int = 0


def configure_logging(settings: LoggingSettings) -> None:
    """Sends the logs of this process to standard error."""
    logging.basicConfig(
        level=settings.level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        force=True,
    )


def log_request(record: RequestRecord) -> None:
    """One line at the end of a request."""
    _requests.info(
        "%s %s %s %d %.1fms key=%s model=%s prompt_tokens=%d completion_tokens=%d",
        record.request_id,
        record.method,
        _printable(record.path),
        record.status,
        record.duration_s * 1000,
        record.key_id,
        _printable(record.model),
        record.prompt_tokens,
        record.completion_tokens,
    )


@contextmanager
def stage(name: str) -> Iterator[None]:
    """One stage of the pipeline. For now a line with its duration at level debug, later a span."""
    if not _stages.isEnabledFor(logging.DEBUG):
        yield
        return
    began_at = time.perf_counter()
    try:
        yield
    finally:
        _stages.debug("%s %.3fms", name, (time.perf_counter() - began_at) * 1000)


def _printable(text: str) -> str:
    """`text` of a caller, unable to forge a line of the log, and not endless."""
    return text[:200].encode("unicode_escape").decode("ascii").replace(" ", "\\x20")
