"""Logs on standard error: lines to read in a terminal, JSON elsewhere.

Every line that is written for a request says which one. None holds a prompt, a completion or a key.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from orchestrator.settings import LoggingSettings
from orchestrator.telemetry.calls import call_at_work

_requests = logging.getLogger("orchestrator.requests")
_MOST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What is told of a finished HTTP request. A `status` of 499 means that the client left.

    `request_id` is the one that engines know the request by: it begins with the caller's, and is
    like no other. `server` is the name of the Triton that answered, where there are several.
    """

    request_id: str
    method: str
    path: str
    status: int
    duration_s: float
    key_id: str = "-"
    model: str = "-"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tenant_id: str = "-"
    error: str = ""
    first_token_s: float | None = None
    server: str = ""

    def fields(self) -> dict[str, Any]:
        """The record for programs; what is not known is left out."""
        known = {
            "method": self.method,
            "path": self.path[:_MOST_SHOWN],
            "status": self.status,
            "duration_ms": round(self.duration_s * 1000, 3),
            "call_id": self.request_id,
        }
        if self.key_id != "-":
            known |= {"key_id": self.key_id, "tenant_id": self.tenant_id}
        if self.model != "-":
            known["model"] = self.model[:_MOST_SHOWN]
        if self.prompt_tokens or self.completion_tokens:
            known["prompt_tokens"] = self.prompt_tokens
            known["completion_tokens"] = self.completion_tokens
        if self.first_token_s is not None:
            known["first_token_ms"] = round(self.first_token_s * 1000, 3)
        if self.server:
            known["triton"] = self.server
        if self.error:
            known["error"] = self.error
        return known


def configure_logging(settings: LoggingSettings) -> None:
    """Sends the logs of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if wants_json(settings) else TextLines())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    # Nobody prints them, and each costs a look-up for every line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def wants_json(settings: LoggingSettings) -> bool:
    """Whether lines are for programs: where nobody says, a terminal gets text."""
    if settings.format == "auto":
        return not sys.stderr.isatty()
    return settings.format == "json"


def log_request(record: RequestRecord, level: int = logging.INFO) -> None:
    """One line at the end of a request."""
    if not _requests.isEnabledFor(level):
        return
    _requests.log(
        level,
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
        extra={"fields": record.fields()},
    )


class TextLines(logging.Formatter):
    """Lines to read. Those of a request end with its id and its trace."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """The first line, before any traceback."""
        line = super().formatMessage(record)
        for name, value in request_fields().items():
            # The line of the request itself begins with its id.
            if name == "trace_id" or not hasattr(record, "fields"):
                line += f" {name}={value}"
        return line


class JsonLines(logging.Formatter):
    """One JSON object a line, `message` always among its members."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole line."""
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields: Mapping[str, Any] | None = getattr(record, "fields", None)
        line["message"] = "request" if fields is not None else record.getMessage()
        line |= request_fields()
        if fields is not None:
            line |= fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def request_fields() -> dict[str, str]:
    """By what the request that is at work can be found; nothing outside of requests."""
    call = call_at_work()
    if call is None or not call.request_id:
        return {}
    fields = {"request_id": call.request_id}
    if trace := call.trace:
        fields["trace_id"] = trace
    return fields


def _printable(text: str) -> str:
    """`text` of a caller, unable to forge a line of the log, and not endless."""
    shown = text[:_MOST_SHOWN].encode("unicode_escape")
    return shown.decode("ascii").replace(" ", "\\x20")
