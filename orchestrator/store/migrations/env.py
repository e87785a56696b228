"""Alembic's entry: runs on the connection that `orchestrator.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from orchestrator.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata(),
    # SQLite cannot alter a constraint in place; batch mode makes the table anew.
    render_as_batch=True,
    # SQLite can roll back DDL, which Alembic does not expect of it.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
