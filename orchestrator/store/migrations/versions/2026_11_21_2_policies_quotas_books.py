"""Limits and rotation of keys, operators, policies, decisions, quotas, books, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261121_2"
down_revision = "20261121_1"
branch_labels = None
depends_on = None

_LIMITS = ("rpm_limit", "images_rpm_limit", "tpd_limit", "concurrency_limit")
_NEW_TABLES = (
    "operator",
    "policy",
    "policy_version",
    "stored_decision",
    "usage_record",
    "token_day",
    "quota_owner",
    "audit_entry",
    "audit_head",
)


def upgrade() -> None:
    _widen_tenants_and_keys()
    _add_operators()
    _add_policies()
    _add_books()
    _add_quotas()
    _add_audit()


def downgrade() -> None:
    for table in reversed(_NEW_TABLES):
        op.drop_table(table)
    op.drop_index("ix_virtual_key_previous_digest", "virtual_key")
    # Column by column: batch mode would drop `tenant`, which keys reference.
    for name in (
        "policy_id",
        "deployment_id",
        "route_policy",
        "key_metadata",
        "previous_digest",
        "previous_pepper_id",
        "previous_expires_at",
        "previous_last_used_at",
        "plan",
        *_LIMITS,
    ):
        op.drop_column("virtual_key", name)
    for name in ("plan", *_LIMITS, "api_disabled"):
        op.drop_column("tenant", name)


def _widen_tenants_and_keys() -> None:
    for table in ("tenant", "virtual_key"):
        op.add_column(table, sa.Column("plan", sa.String(16), nullable=True))
        for name in _LIMITS:
            op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column(
        "tenant",
        sa.Column("api_disabled", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    for column in (
        sa.Column("policy_id", sa.String(40), nullable=False, server_default="pol_default"),
        sa.Column("deployment_id", sa.String(200), nullable=True),
        sa.Column("route_policy", sa.String(16), nullable=True),
        sa.Column("key_metadata", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("previous_digest", sa.LargeBinary(32), nullable=True),
        sa.Column("previous_pepper_id", sa.String(16), nullable=True),
        sa.Column("previous_expires_at", sa.BigInteger(), nullable=True),
        sa.Column("previous_last_used_at", sa.BigInteger(), nullable=True),
    ):
        op.add_column("virtual_key", column)
    op.create_index(
        "ix_virtual_key_previous_digest", "virtual_key", ["previous_digest"], unique=True
    )


def _add_operators() -> None:
    op.create_table(
        "operator",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("password_hash", sa.String(400), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operator"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_operator_tenant_id"),
        sa.UniqueConstraint("name", name="uq_operator_name"),
    )


def _add_policies() -> None:
    op.create_table(
        "policy",
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("active_version", sa.Integer(), nullable=False),
        sa.Column("candidate_version", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_policy"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_policy_tenant_id"),
    )
    op.create_table(
        "policy_version",
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("policy_id", sa.String(40), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("module", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "policy_id", "version", name="pk_policy_version"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "policy_id"],
            ["policy.tenant_id", "policy.id"],
            name="fk_policy_version_tenant_id_policy_id",
        ),
    )
    op.create_table(
        "stored_decision",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("policy_id", sa.String(40), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("input", sa.JSON(), nullable=False),
        sa.Column("allow", sa.Boolean(), nullable=False),
        sa.Column("rule", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("shadow_version", sa.Integer(), nullable=True),
        sa.Column("shadow_allow", sa.Boolean(), nullable=True),
        sa.Column("shadow_rule", sa.String(200), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_stored_decision"),
    )
    op.create_index("ix_stored_decision_tenant_id_at", "stored_decision", ["tenant_id", "at"])


def _add_books() -> None:
    op.create_table(
        "usage_record",
        sa.Column("record_id", sa.String(64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("route", sa.String(40), nullable=False),
        sa.Column("dialect", sa.String(40), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("first_token_ms", sa.BigInteger(), nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name="pk_usage_record"),
    )
    op.create_index("ix_usage_record_at", "usage_record", ["at"])
    op.create_index("ix_usage_record_tenant_id_at", "usage_record", ["tenant_id", "at"])


def _add_quotas() -> None:
    op.create_table(
        "token_day",
        sa.Column("scope", sa.String(8), nullable=False),
        sa.Column("scope_id", sa.String(40), nullable=False),
        sa.Column("day", sa.String(8), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "scope_id", "day", name="pk_token_day"),
        sa.CheckConstraint("scope IN ('key', 'tenant')", name=op.f("ck_token_day_scope")),
    )
    op.create_table(
        "quota_owner",
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("applied", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_quota_owner"),
    )


def _add_audit() -> None:
    op.create_table(
        "audit_entry",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            autoincrement=False,
        ),
        sa.Column("entry_id", sa.String(40), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=True),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=True),
        sa.Column("previous_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_audit_entry"),
        sa.UniqueConstraint("entry_id", name="uq_audit_entry_entry_id"),
    )
    op.create_index("ix_audit_entry_tenant_id_seq", "audit_entry", ["tenant_id", "seq"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
