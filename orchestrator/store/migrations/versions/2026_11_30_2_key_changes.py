"""Changes of keys and tenants, recorded by triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261130_2"
down_revision = "20261130_1"
branch_labels = None
depends_on = None

_LIMITS = "plan, rpm_limit, images_rpm_limit, tpd_limit, concurrency_limit"
_OF_KEY = (
    "tenant_id, label, digest, scope, allowed_models, status, expires_at, policy_id, deployment_id,"
    f" route_policy, key_metadata, previous_digest, previous_expires_at, {_LIMITS}"
)
_TRIGGERS = (
    ("virtual_key_changed", f"UPDATE OF {_OF_KEY}", "virtual_key"),
    ("virtual_key_deleted", "DELETE", "virtual_key"),
    ("tenant_changed", f"UPDATE OF api_disabled, {_LIMITS}", "tenant"),
)
"""Name, event, table. The last use of a key is left out, because it is written all the time."""


def upgrade() -> None:
    op.create_table(
        "key_change",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_key_change"),
    )
    op.create_index("ix_key_change_at", "key_change", ["at"])
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    for name, event, table in _TRIGGERS:
        row = "tenant_id, OLD.id" if table == "virtual_key" else "id, NULL"
        values = f"{_now(is_postgresql=is_postgresql)}, OLD.{row}"
        insert = f"INSERT INTO key_change (at, tenant_id, key_id) VALUES ({values});"  # noqa: S608  # constants
        if is_postgresql:
            op.execute(
                f"CREATE FUNCTION note_{name}() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN {insert} RETURN NULL; END $$"
            )
            action = f"EXECUTE FUNCTION note_{name}()"
        else:
            action = f"BEGIN {insert} END"
        op.execute(f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW {action}")


def downgrade() -> None:
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    for name, _, table in _TRIGGERS:
        op.execute(f"DROP TRIGGER {name}{f' ON {table}' if is_postgresql else ''}")
        if is_postgresql:
            op.execute(f"DROP FUNCTION note_{name}()")
    op.drop_table("key_change")


def _now(*, is_postgresql: bool) -> str:
    """SQL for the current time in milliseconds, by the database's clock."""
    if is_postgresql:
        return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
