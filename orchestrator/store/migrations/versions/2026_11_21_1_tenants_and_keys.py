"""Tenants and virtual keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261121_1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tenant",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenant"),
        sa.UniqueConstraint("name", name="uq_tenant_name"),
    )
    op.create_table(
        "virtual_key",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("prefix", sa.String(40), nullable=False),
        sa.Column("last4", sa.String(4), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("pepper_id", sa.String(16), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("allowed_models", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_virtual_key"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_virtual_key_tenant_id"),
        sa.UniqueConstraint("digest", name="uq_virtual_key_digest"),
        sa.CheckConstraint("scope IN ('admin', 'inference')", name=op.f("ck_virtual_key_scope")),
        sa.CheckConstraint("status IN ('active', 'revoked')", name=op.f("ck_virtual_key_status")),
    )
    op.create_index("ix_virtual_key_tenant_id", "virtual_key", ["tenant_id"])


def downgrade() -> None:
    op.drop_table("virtual_key")
    op.drop_table("tenant")
