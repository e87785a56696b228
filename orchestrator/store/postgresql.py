"""The engine of a PostgreSQL store: time limits, broken connections, poolers.

Behind PgBouncer in transaction mode, consecutive transactions run on different connections to the
server. So nothing can be set for a session (startup parameters are refused, too): limits are set
in each transaction, and statements are prepared without a name.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from orchestrator.settings import StoreSettings

_RECYCLE_S = 1800
_READ_ONLY = "25006"
"""Source: PostgreSQL documentation, appendix A: read_only_sql_transaction."""


def postgresql_engine(url: URL, settings: StoreSettings, *, patient: bool = False) -> AsyncEngine:
    """Creates the engine. `patient`: one separate connection, statements without time limit."""
    limits = {
        "jit": "off",
        **{name: str(int(1000 * limit_s)) for name, limit_s in _limits_s(settings, patient)},
    }
    arguments: dict[str, Any] = {
        "timeout": settings.connect_timeout_s,
        # The server's own limit does not help when the server hangs.
        "command_timeout": None if patient else settings.statement_timeout_s + 1.0,
        "server_settings": {"application_name": "orchestrator", "timezone": "UTC"},
    }
    if settings.pgbouncer:
        arguments |= {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            # Every statement's name is the empty string, so none stays on a connection.
            "prepared_statement_name_func": str,
        }
    else:
        arguments["server_settings"] |= limits
    if "host" in url.query and "target_session_attrs" not in url.query:
        # Of several servers, choose the one that accepts writes: a fail-over changes which it is.
        arguments["target_session_attrs"] = "read-write"
    if patient:
        engine = create_async_engine(url, connect_args=arguments, poolclass=NullPool)
    else:
        engine = create_async_engine(
            url,
            connect_args=arguments,
            pool_size=settings.pool_size,
            max_overflow=0,
            pool_timeout=settings.connect_timeout_s,
            pool_recycle=_RECYCLE_S,
            pool_pre_ping=True,
        )
    if settings.pgbouncer:
        _set_in_each_transaction(engine, limits)
    event.listen(engine.sync_engine, "handle_error", _note_useless)
    return engine


def _limits_s(settings: StoreSettings, patient: bool) -> list[tuple[str, float]]:
    statement_s = settings.statement_timeout_s
    return [
        ("statement_timeout", 0 if patient else statement_s),
        ("lock_timeout", settings.busy_timeout_s),
        # A process that stops in the middle of a transaction must not hold its locks for ever.
        ("idle_in_transaction_session_timeout", 0 if patient else 6 * statement_s),
    ]


def _set_in_each_transaction(engine: AsyncEngine, limits: dict[str, str]) -> None:
    """Sets the limits in each transaction, at the cost of one more round trip."""
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in limits.items())

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT {calls}")


def _note_useless(context: ExceptionContext) -> None:
    """Replaces connections that would fail for ever.

    A connection that gave no answer in time is closed: a rollback on it would hang as well. One
    that accepts no writes leads to a demoted server: a new one may reach its successor.
    """
    original = context.original_exception
    is_read_only = getattr(original, "sqlstate", None) == _READ_ONLY
    if isinstance(original, TimeoutError) or is_read_only:
        context.is_disconnect = True
