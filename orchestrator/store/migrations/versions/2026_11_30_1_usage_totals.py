"""Sums of usage by hour and by day, also of existing records."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261130_1"
down_revision = "20261121_3"
branch_labels = None
depends_on = None

_COUNTED = (
    "requests",
    "failed",
    "cancelled",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "duration_ms",
)
_SPANS = {"hour": 3_600_000, "day": 86_400_000}


def upgrade() -> None:
    op.create_table(
        "usage_total",
        sa.Column("tenant_id", sa.String(40), nullable=False),
        sa.Column("span", sa.String(8), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTED),
        sa.PrimaryKeyConstraint(
            "tenant_id", "span", "at", "key_id", "model", name="pk_usage_total"
        ),
        sa.CheckConstraint("span IN ('hour', 'day', 'all_hour', 'all_day')", name="span"),
        sqlite_with_rowid=False,
    )
    for span, length in _SPANS.items():
        begin = f"at - at % {length}"
        op.execute(
            f"INSERT INTO usage_total (tenant_id, span, at, key_id, model, {', '.join(_COUNTED)})"  # noqa: S608  # constants
            f" SELECT tenant_id, '{span}', {begin}, key_id, model, count(*),"
            " sum(CASE outcome WHEN 'failed' THEN 1 ELSE 0 END),"
            " sum(CASE outcome WHEN 'cancelled' THEN 1 ELSE 0 END),"
            " sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(duration_ms)"
            f" FROM usage_record GROUP BY tenant_id, {begin}, key_id, model"
        )
        summed = ", ".join(f"sum({name})" for name in _COUNTED)
        op.execute(
            f"INSERT INTO usage_total (tenant_id, span, at, key_id, model, {', '.join(_COUNTED)})"  # noqa: S608  # constants
            f" SELECT tenant_id, 'all_{span}', at, '', '', {summed} FROM usage_total"
            f" WHERE span = '{span}' GROUP BY tenant_id, at"
        )


def downgrade() -> None:
    op.drop_table("usage_total")
