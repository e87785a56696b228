"""Alembic's entry point: runs on the connection that `orchestrator.store.migrate` passes."""

from __future__ import annotations

from alembic import context

from orchestrator.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata(),
    # SQLite cannot alter a constraint in place; batch mode creates the table again.
    render_as_batch=True,
    # SQLite can roll back DDL, but Alembic assumes that it cannot.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
