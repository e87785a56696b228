"""Stored responses and the events of those that run in the background."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261121_3"
down_revision = "20261121_2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stored_response",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("previous_id", sa.String(64), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("input_items", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("next_sequence", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_stored_response"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_stored_response_tenant_id"),
    )
    op.create_index("ix_stored_response_created_at", "stored_response", ["created_at"])
    op.create_index(
        "ix_stored_response_tenant_id_created_at",
        "stored_response",
        ["tenant_id", "created_at", "size_bytes"],
    )
    op.create_table(
        "stored_response_event",
        sa.Column("response_id", sa.String(64), nullable=False),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("frames", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("response_id", "first_sequence", name="pk_stored_response_event"),
        sa.ForeignKeyConstraint(
            ["response_id"],
            ["stored_response.id"],
            name="fk_stored_response_event_response_id",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    op.drop_table("stored_response_event")
    op.drop_table("stored_response")
