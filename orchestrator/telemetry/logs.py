"""Logs on standard error: lines to read in a terminal, JSON elsewhere.

Every line that is written for a request has its id. None contains a prompt, a completion or a key.
The lines at the end of requests are written together, at most 5 ms later, or with the next line of
any other kind.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, TextIO, TypeAlias

import orjson

from orchestrator.settings import LoggingSettings
from orchestrator.telemetry.calls import call_at_work

_requests = logging.getLogger("orchestrator.requests")
_root = logging.getLogger()
_MAX_SHOWN = 200
_MAX_CAUSES = 5
_WRITE_AFTER_S = 0.005
_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info"}
"""The levels of request lines."""


ExceptionInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class RequestRecord(NamedTuple):
    """The log record of a finished HTTP request. Status 499 means that the client disconnected.

    `request_id` is the unique id that engines know the request by; it starts with the caller's.
    `server` is the name of the Triton that answered, if there are several.
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
        """Returns the record for programs; unknown values are left out."""
        known = {
            "method": self.method,
            "path": self.path[:_MAX_SHOWN],
            "status": self.status,
            "duration_ms": round(self.duration_s * 1000, 3),
            "call_id": self.request_id,
        }
        if self.key_id != "-":
            known |= {"key_id": self.key_id, "tenant_id": self.tenant_id}
        if self.model != "-":
            known["model"] = self.model[:_MAX_SHOWN]
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
    handler: logging.Handler
    if wants_json(settings):
        handler = JsonHandler(sys.stderr)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(TextLines())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    # No format prints them, and each costs a look-up for every line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def wants_json(settings: LoggingSettings) -> bool:
    """Whether lines are for programs; without a setting, a terminal gets text."""
    if settings.format == "auto":
        return not sys.stderr.isatty()
    return settings.format == "json"


def log_request(record: RequestRecord, level: int = logging.INFO) -> None:
    """Logs one line at the end of a request."""
    if not _requests.isEnabledFor(level):
        return
    # Bypasses `logging` if there is no other handler.
    if len(_root.handlers) == 1 and isinstance(handler := _root.handlers[0], JsonHandler):
        handler.request(record, level)
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


class _Unquoted(logging.Formatter):
    """Writes errors without their texts, which may quote a prompt, an answer or a secret."""

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802  # logging's own name
        """Returns the error's class and traceback lines, after the errors that caused it."""
        return "" if ei[1] is None else "\n".join(_places(ei[1]))

    def said(self, record: logging.LogRecord) -> str:
        """Returns the message of `record`; only asyncio's first line: its others show objects."""
        message = record.getMessage()
        return message.partition("\n")[0] if record.name == "asyncio" else message


class TextLines(_Unquoted):
    """Lines to read. Those of a request end with its id and its trace."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """Returns the first line, before any traceback."""
        record.message = self.said(record)
        line = super().formatMessage(record)
        for name, value in request_fields().items():
            # The line of the request itself starts with its id.
            if name == "trace_id" or not hasattr(record, "fields"):
                line += f" {name}={value}"
        return line


class JsonLines(_Unquoted):
    """One JSON object a line, which always has a `message`."""

    _second = (-1, "")
    """The last second that was formatted, and its text."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the whole line."""
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields is not None:
            return self.request(record.created, record.levelno, fields)
        level = record.levelname.lower()
        line = self._head(record.created, level, record.name, self.said(record))
        line |= request_fields()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _json(line)

    def request(self, at_s: float, level: int, fields: dict[str, Any]) -> str:
        """Returns the whole line of a request that ended at the Unix time `at_s`."""
        name = _LEVELS.get(level) or logging.getLevelName(level).lower()
        line = self._head(at_s, name, _requests.name, "request")
        line |= request_fields()
        line |= fields
        return orjson.dumps(line, default=str).decode()

    def _head(self, at_s: float, level: str, logger: str, message: str) -> dict[str, Any]:
        second, written = self._second
        if second != int(at_s):
            second = int(at_s)
            written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, written)
        return {
            "time": f"{written}.{int((at_s - second) * 1000):03d}Z",
            "level": level,
            "logger": logger,
            "message": message,
        }


class JsonHandler(logging.StreamHandler[TextIO]):
    """Writes `JsonLines`. Those of requests wait a short time, to be written together."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._format = JsonLines()
        self.setFormatter(self._format)
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        # Lines of other kinds come from any thread, and write the waiting lines first.
        self._turn = threading.Lock()

    def request(self, record: RequestRecord, level: int) -> None:
        """Adds the line of a request that has just ended. Call it in the thread of the loop."""
        line = self._format.request(time.time(), level, record.fields())
        self._waiting.append(line)
        if self._timer is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._timer = loop.call_later(_WRITE_AFTER_S, self._write_late)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes at once, after the lines that wait."""
        self._write_waiting()
        super().emit(record)

    def flush(self) -> None:
        """Writes the lines that wait. `logging` also calls this at the end of the process."""
        self._write_waiting()
        super().flush()

    def _write_late(self) -> None:
        self._timer = None
        self.flush()

    def _write_waiting(self) -> None:
        with self._turn:
            # Each a single step, and always the same list: another line may be added meanwhile.
            lines = self._waiting.copy()
            del self._waiting[: len(lines)]
            if lines:
                try:
                    self.stream.write("\n".join(lines) + self.terminator)
                except OSError:
                    # As `logging` does with a line that cannot be written.
                    self.handleError(_unwritten(lines))


def _places(error: BaseException, deeper: int = _MAX_CAUSES) -> list[str]:
    """Returns lines for `error`, the errors before it first."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = _places(before, deeper - 1) if before is not None and deeper else []
    if isinstance(error, BaseExceptionGroup) and deeper:
        lines += [line for one in error.exceptions for line in _places(one, deeper - 1)]
    places = [line.rstrip() for line in traceback.format_tb(error.__traceback__)]
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    # The operating system's texts quote no caller.
    reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    return [*lines, *places, name + reason]


def request_fields() -> dict[str, str]:
    """Returns the ids of the current request; nothing outside of requests."""
    call = call_at_work()
    if call is None or not call.request_id:
        return {}
    fields = {"request_id": call.request_id}
    if trace := call.trace:
        fields["trace_id"] = trace
    return fields


def _json(line: Mapping[str, Any]) -> str:
    return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _unwritten(lines: list[str]) -> logging.LogRecord:
    return logging.LogRecord(_requests.name, logging.INFO, "", 0, "\n".join(lines), None, None)


def _printable(text: str) -> str:
    """Returns a caller's `text` cut short, and escaped so that it cannot forge a log line."""
    shown = text[:_MAX_SHOWN].encode("unicode_escape")
    return shown.decode("ascii").replace(" ", "\\x20")
