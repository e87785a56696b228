"""Says what a driver's error means, in one sentence without a statement or its values.

SQLite's messages name tables and columns only; PostgreSQL's are omitted where they may hold values.
"""

from __future__ import annotations

import sqlite3

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

TRANSLATED = (
    SQLAlchemyError,
    sqlite3.Error,
    # A connection that cannot be opened, or is cut, fails with the driver's own error.
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # None of several servers accepts writes.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""Every error that a store can raise."""

_SQLITE = (
    ("locked", "is locked by another process"),
    ("disk is full", "cannot be written: the disk is full"),
    ("readonly", "cannot be written: it is read-only"),
    ("unable to open", "cannot be opened"),
    ("not a database", "is damaged: it is not an SQLite file"),
    ("malformed", "is damaged"),
    ("disk i/o error", "cannot be read or written: disk error"),
)

# Source: PostgreSQL documentation, appendix A, error codes; longer prefixes first.
_POSTGRESQL = (
    ("42P01", "has not been set up: run `orchestrator migrate`"),
    ("42703", "has not been set up: run `orchestrator migrate`"),
    ("3D000", "cannot be opened: there is no such database"),
    ("28", "cannot be opened: the server refuses this user or password"),
    ("53100", "cannot be written: the disk is full"),
    ("53300", "cannot be opened: the server has no connection left"),
    ("25006", "cannot be written: it is read-only"),
    ("55P03", "is locked by another process"),
    ("40", "could not finish a transaction beside others"),
    ("57014", "did not answer in time"),
    ("57", "is shutting down or starting"),
    ("08", "cannot be reached"),
)


_MAY_HOLD_VALUES = ("22", "23")
"""Error classes (data, integrity) whose messages may repeat the values to be written."""
_MAX_SAID = 300


def sentence(store: str, error: BaseException) -> str:
    """Returns what is wrong with `store`, and the server's own message."""
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    cause = cause if cause is not None else error
    if isinstance(_source(cause), asyncpg.TargetServerAttributeNotMatched):
        return f"the store `{store}` cannot be written: no server of it takes writes"
    said = _said(cause)
    return f"the store `{store}` {_meaning(cause)}{f' ({said})' if said else ''}"


def _said(cause: BaseException) -> str:
    """The message of the server, the driver or the system, unless it may hold our values."""
    source = _source(cause)
    if isinstance(source, asyncpg.PostgresError):
        state = source.sqlstate or ""
        words = "" if state.startswith(_MAY_HOLD_VALUES) else f"{source.args[0]}, SQLSTATE {state}"
    elif isinstance(source, _SPEAKING) and not isinstance(source, asyncpg.DataError):
        words = str(source)
    else:
        words = ""
    line = " ".join(words.split())
    return line if len(line) <= _MAX_SAID else f"{line[:_MAX_SAID]}…"


def _source(cause: BaseException) -> BaseException:
    """Returns the driver's error, if SQLAlchemy's wraps it."""
    return cause.__cause__ if isinstance(cause.__cause__, _SPEAKING) else cause


_SPEAKING = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


def _meaning(cause: BaseException) -> str:
    state = getattr(cause, "sqlstate", None)
    if state:
        for start, meaning in _POSTGRESQL:
            if state.startswith(start):
                return meaning
    elif isinstance(cause, (TimeoutError, PoolTimeoutError)):
        return "did not answer in time"
    elif isinstance(cause, OSError):
        return "cannot be reached"
    else:
        said = str(cause).lower()
        if "no such table" in said or "no such column" in said:
            return "has not been set up: run `orchestrator migrate`"
        for words, meaning in _SQLITE:
            if words in said:
                return meaning
        if "connection" in said and ("closed" in said or "lost" in said):
            return "cannot be reached"
    words = f" ({cause})" if isinstance(cause, sqlite3.Error) else ""
    return f"failed: {type(cause).__name__}{words}"
