"""Wasted tokens, computed but not delivered, in the usage records and in their sums."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261130_3"
down_revision = "20261130_2"
branch_labels = None
depends_on = None

_TABLES = ("usage_record", "usage_total")


def upgrade() -> None:
    for table in _TABLES:
        # With a server default, neither SQLite nor PostgreSQL rewrites the rows.
        op.add_column(
            table, sa.Column("wasted_tokens", sa.BigInteger(), nullable=False, server_default="0")
        )


def downgrade() -> None:
    for table in _TABLES:
        op.drop_column(table, "wasted_tokens")
