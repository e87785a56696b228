"""Sums of usage in periods of sixteen days, and of each model per hour and per day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261130_4"
down_revision = "20261130_3"
branch_labels = None
depends_on = None

_NAMES = ("tenant_id", "span", "at", "key_id", "model")
_PERIOD_MS = 16 * 86_400_000
_DEFAULTS = {"wasted_tokens": "0"}


def upgrade() -> None:
    columns = sa.inspect(op.get_bind()).get_columns("usage_total")
    counted = [str(column["name"]) for column in columns if column["name"] not in _NAMES]
    op.create_table(
        "usage_summary",
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("span", sa.String(8), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False, server_default=_DEFAULTS.get(name))
            for name in counted
        ),
        sa.PrimaryKeyConstraint(*_NAMES, name="pk_usage_summary"),
        sa.CheckConstraint("span IN ('hour', 'day', 'period')", name="span"),
        sqlite_with_rowid=False,
    )
    sums = ", ".join(f"sum({name})" for name in counted)
    period = f"at - at % {_PERIOD_MS}"
    for span, source, at, key_id in (
        ("period", "day", period, "key_id"),
        ("hour", "hour", "at", "''"),
        ("day", "day", "at", "''"),
    ):
        key = ", key_id" if key_id == "key_id" else ""
        op.execute(
            f"INSERT INTO usage_summary ({', '.join(_NAMES)}, {', '.join(counted)})"  # noqa: S608  # constants
            f" SELECT tenant_id, '{span}', {at}, {key_id}, model, {sums} FROM usage_total"
            f" WHERE span = '{source}' GROUP BY tenant_id, {at}, model{key}"
        )


def downgrade() -> None:
    op.drop_table("usage_summary")
