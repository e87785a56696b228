"""What a driver's error means, in one sentence without a statement or its values in it."""

from __future__ import annotations

import sqlite3

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

TRANSLATED = (
    SQLAlchemyError,
    sqlite3.Error,
    # A connection that cannot be made, or is cut, fails with the driver's own error.
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)
"""Every error by which a store can fail."""

_SQLITE = (
    ("locked", "is locked by another process"),
    ("disk is full", "cannot be written: the disk is full"),
    ("readonly", "cannot be written: it is read-only"),
    ("unable to open", "cannot be opened"),
    ("not a database", "is damaged: it is not an SQLite file"),
    ("malformed", "is damaged"),
    ("disk i/o error", "cannot be read or written: disk error"),
)

# Source: PostgreSQL documentation, appendix A, error codes; longer beginnings first.
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


def sentence(store: str, error: BaseException) -> str:
    """What is wrong with `store`."""
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    return f"the store `{store}` {_meaning(cause if cause is not None else error)}"


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
    return f"failed: {type(cause).__name__}"
