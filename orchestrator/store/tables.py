"""The tables. Times are integers since the epoch, UTC: in seconds, or milliseconds where noted.

Rows stay in the layer of the queries: callers get separate frozen values. The tables declare no
relationships, so no attribute loads rows implicitly.
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    false,
)
from sqlmodel import Field, SQLModel

from orchestrator.core.limits import Limits

SCHEMA_REVISION = "20261130_4"
"""The newest migration; an opened store must be at this revision."""

KeyScope = Literal["admin", "inference"]
KeyStatus = Literal["active", "revoked"]

DEFAULT_POLICY_ID = "pol_default"
"""Every tenant has this policy, with or without a row of its own."""

# The same names in every database, so that a later migration can drop a constraint by name.
# This affects only tables declared after it.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def metadata() -> MetaData:
    """Returns the schema that the models declare; the migrations must produce the same."""
    return SQLModel.metadata


class Tenant(SQLModel, table=True):
    """The owner of keys, limits and bills. A null limit means no limit."""

    __tablename__ = "tenant"

    id: str = Field(primary_key=True, max_length=40)
    name: str = Field(max_length=200, unique=True)
    created_at: int = Field(sa_type=BigInteger)
    plan: str | None = Field(default=None, max_length=16)
    rpm_limit: int | None = Field(default=None, sa_type=BigInteger)
    images_rpm_limit: int | None = Field(default=None, sa_type=BigInteger)
    tpd_limit: int | None = Field(default=None, sa_type=BigInteger)
    concurrency_limit: int | None = Field(default=None, sa_type=BigInteger)
    api_disabled: bool = Field(default=False, sa_column_kwargs={"server_default": false()})


class VirtualKey(SQLModel, table=True):
    """A key that callers send. The secret itself is not stored: `digest` is its HMAC-SHA256.

    `previous_*` describe the secret before the last rotation, valid until `previous_expires_at`.
    A null limit means the plan's limit, or no limit without a plan.
    """

    __tablename__ = "virtual_key"
    __table_args__: Any = (
        CheckConstraint("scope IN ('admin', 'inference')", name="scope"),
        CheckConstraint("status IN ('active', 'revoked')", name="status"),
        # An index and not a constraint: SQLite can add it to an existing table.
        Index("ix_virtual_key_previous_digest", "previous_digest", unique=True),
    )

    id: str = Field(primary_key=True, max_length=40)
    tenant_id: str = Field(foreign_key="tenant.id", index=True, max_length=40)
    label: str = Field(max_length=200)
    prefix: str = Field(max_length=40)
    last4: str = Field(max_length=4)
    digest: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False, unique=True))
    pepper_id: str = Field(max_length=16)
    scope: str = Field(max_length=16)
    allowed_models: list[str] = Field(sa_type=JSON)
    status: str = Field(max_length=16)
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int | None = Field(default=None, sa_type=BigInteger)
    revoked_at: int | None = Field(default=None, sa_type=BigInteger)
    last_used_at: int | None = Field(default=None, sa_type=BigInteger)
    plan: str | None = Field(default=None, max_length=16)
    rpm_limit: int | None = Field(default=None, sa_type=BigInteger)
    images_rpm_limit: int | None = Field(default=None, sa_type=BigInteger)
    tpd_limit: int | None = Field(default=None, sa_type=BigInteger)
    concurrency_limit: int | None = Field(default=None, sa_type=BigInteger)
    policy_id: str = Field(
        default=DEFAULT_POLICY_ID,
        max_length=40,
        sa_column_kwargs={"server_default": DEFAULT_POLICY_ID},
    )
    deployment_id: str | None = Field(default=None, max_length=200)
    route_policy: str | None = Field(default=None, max_length=16)
    key_metadata: dict[str, str] = Field(
        default_factory=dict, sa_column=Column(JSON, nullable=False, server_default="{}")
    )
    previous_digest: bytes | None = Field(
        default=None, sa_column=Column(LargeBinary(32), nullable=True)
    )
    previous_pepper_id: str | None = Field(default=None, max_length=16)
    previous_expires_at: int | None = Field(default=None, sa_type=BigInteger)
    previous_last_used_at: int | None = Field(default=None, sa_type=BigInteger)


class KeyChange(SQLModel, table=True):
    """A changed key, or without `key_id` all keys of a tenant; triggers write it.

    `at` is in milliseconds, by the database's clock.
    """

    __tablename__ = "key_change"
    __table_args__: Any = (Index("ix_key_change_at", "at"),)

    seq: int | None = Field(
        default=None,
        sa_column=Column(
            BigInteger().with_variant(Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
            nullable=False,
        ),
    )
    at: int = Field(sa_type=BigInteger)
    tenant_id: str = Field(max_length=40)
    key_id: str | None = Field(default=None, max_length=40)


def explicit_limits(row: Tenant | VirtualKey) -> Limits:
    """Returns the limits of the row itself, without its plan's."""
    return Limits(
        rpm=row.rpm_limit,
        images_rpm=row.images_rpm_limit,
        tpd=row.tpd_limit,
        concurrency=row.concurrency_limit,
    )


class Operator(SQLModel, table=True):
    """A person who manages the appliance: one tenant of it, or all without a tenant."""

    __tablename__ = "operator"

    id: str = Field(primary_key=True, max_length=40)
    tenant_id: str | None = Field(default=None, foreign_key="tenant.id", max_length=40)
    name: str = Field(max_length=200, unique=True)
    password_hash: str = Field(max_length=400)
    role: str = Field(max_length=16)
    created_at: int = Field(sa_type=BigInteger)


class Policy(SQLModel, table=True):
    """A named policy. The id is unique within a tenant: each may have a `pol_default`."""

    __tablename__ = "policy"

    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id", max_length=40)
    id: str = Field(primary_key=True, max_length=40)
    name: str = Field(max_length=200)
    active_version: int
    candidate_version: int | None = None
    created_at: int = Field(sa_type=BigInteger)
    deleted_at: int | None = Field(default=None, sa_type=BigInteger)


class PolicyVersion(SQLModel, table=True):
    """One version of a policy; immutable."""

    __tablename__ = "policy_version"
    __table_args__: Any = (
        ForeignKeyConstraint(["tenant_id", "policy_id"], ["policy.tenant_id", "policy.id"]),
    )

    tenant_id: str = Field(primary_key=True, max_length=40)
    policy_id: str = Field(primary_key=True, max_length=40)
    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    document: dict[str, Any] = Field(sa_type=JSON)
    module: str | None = Field(default=None, sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    created_by: str = Field(max_length=200)


class StoredDecision(SQLModel, table=True):
    """A decision as it was made; `input` holds no prompt text. `at` is in milliseconds."""

    __tablename__ = "stored_decision"
    __table_args__: Any = (Index("ix_stored_decision_tenant_id_at", "tenant_id", "at"),)

    id: str = Field(primary_key=True, max_length=40)
    at: int = Field(sa_type=BigInteger)
    tenant_id: str = Field(max_length=40)
    key_id: str = Field(max_length=40)
    policy_id: str = Field(max_length=40)
    policy_version: int
    input: dict[str, Any] = Field(sa_type=JSON)
    allow: bool
    rule: str = Field(max_length=200)
    reason: str = Field(sa_type=Text)
    shadow_version: int | None = None
    shadow_allow: bool | None = None
    shadow_rule: str | None = Field(default=None, max_length=200)


class UsageEntry(SQLModel, table=True):
    """The usage record of one request. `at` is its start in milliseconds.

    `wasted_tokens` were computed but are not charged to the caller.
    No foreign keys: a record outlives the rows that it names.
    """

    __tablename__ = "usage_record"
    __table_args__: Any = (
        Index("ix_usage_record_at", "at"),
        Index("ix_usage_record_tenant_id_at", "tenant_id", "at"),
    )

    record_id: str = Field(primary_key=True, max_length=64)
    at: int = Field(sa_type=BigInteger)
    request_id: str = Field(max_length=64)
    tenant_id: str = Field(max_length=40)
    key_id: str = Field(max_length=40)
    model: str = Field(max_length=200)
    route: str = Field(max_length=40)
    dialect: str = Field(max_length=40)
    prompt_tokens: int = Field(sa_type=BigInteger)
    completion_tokens: int = Field(sa_type=BigInteger)
    cached_tokens: int = Field(sa_type=BigInteger)
    first_token_ms: int | None = Field(default=None, sa_type=BigInteger)
    duration_ms: int = Field(sa_type=BigInteger)
    outcome: str = Field(max_length=16)
    wasted_tokens: int = Field(
        default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"}
    )


class UsageSums(SQLModel):
    """Sums of usage records in one time span that begins at `at`, in milliseconds.

    A name is empty where the sum includes all of them. Written with the records, and kept when the
    records are deleted.
    """

    tenant_id: str = Field(primary_key=True, max_length=40)
    span: str = Field(primary_key=True, max_length=8)
    at: int = Field(sa_type=BigInteger, primary_key=True, sa_column_kwargs={"autoincrement": False})
    key_id: str = Field(primary_key=True, max_length=40)
    model: str = Field(primary_key=True, max_length=200)
    requests: int = Field(sa_type=BigInteger)
    failed: int = Field(sa_type=BigInteger)
    cancelled: int = Field(sa_type=BigInteger)
    prompt_tokens: int = Field(sa_type=BigInteger)
    completion_tokens: int = Field(sa_type=BigInteger)
    cached_tokens: int = Field(sa_type=BigInteger)
    duration_ms: int = Field(sa_type=BigInteger)
    wasted_tokens: int = Field(
        default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"}
    )


class UsageTotal(UsageSums, table=True):
    """Sums per tenant, key and model in one hour or day, and of all keys and models of a tenant."""

    __tablename__ = "usage_total"
    __table_args__: Any = (
        CheckConstraint("span IN ('hour', 'day', 'all_hour', 'all_day')", name="span"),
        # Read in the order of its key.
        {"sqlite_with_rowid": False},
    )


class UsageSummary(UsageSums, table=True):
    """Sums per tenant, key and model in a period of days, and per model in an hour or day."""

    __tablename__ = "usage_summary"
    __table_args__: Any = (
        CheckConstraint("span IN ('hour', 'day', 'period')", name="span"),
        # Read in the order of its key.
        {"sqlite_with_rowid": False},
    )


class TokenDay(SQLModel, table=True):
    """The tokens that one key or tenant has used on one UTC day, `YYYYMMDD`."""

    __tablename__ = "token_day"
    __table_args__: Any = (CheckConstraint("scope IN ('key', 'tenant')", name="scope"),)

    scope: str = Field(primary_key=True, max_length=8)
    scope_id: str = Field(primary_key=True, max_length=40)
    day: str = Field(primary_key=True, max_length=8)
    used: int = Field(default=0, sa_type=BigInteger)


class QuotaOwner(SQLModel, table=True):
    """A process that counts tokens. `applied` is its last journal line included in `token_day`.

    `seen_at`, in milliseconds, is its last sign of life.
    """

    __tablename__ = "quota_owner"

    owner: str = Field(primary_key=True, max_length=64)
    seen_at: int = Field(sa_type=BigInteger)
    applied: int = Field(default=0, sa_type=BigInteger)


class AuditEntry(SQLModel, table=True):
    """One line of the audit; `hash` covers it and `previous_hash`. `at` is in milliseconds.

    `before`, `after` and `origin` are JSON text, because the hash covers every byte. A line
    without a tenant belongs to the installation.
    """

    __tablename__ = "audit_entry"
    __table_args__: Any = (Index("ix_audit_entry_tenant_id_seq", "tenant_id", "seq"),)

    seq: int = Field(
        sa_column=Column(
            # SQLite's own row number: a separate index could hide an altered number.
            BigInteger().with_variant(Integer, "sqlite"),
            primary_key=True,
            autoincrement=False,
            nullable=False,
        )
    )
    entry_id: str = Field(max_length=40, unique=True)
    at: int = Field(sa_type=BigInteger)
    tenant_id: str | None = Field(default=None, max_length=40)
    actor: str = Field(max_length=200)
    action: str = Field(max_length=64)
    target: str = Field(max_length=200)
    before: str | None = Field(default=None, sa_type=Text)
    after: str | None = Field(default=None, sa_type=Text)
    origin: str | None = Field(default=None, sa_type=Text)
    previous_hash: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))
    hash: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))


class AuditHead(SQLModel, table=True):
    """The end of the audit: one row, `id` 1, created with the first line."""

    __tablename__ = "audit_head"

    id: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, nullable=False)
    )
    seq: int = Field(sa_type=BigInteger)
    hash: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))


class StoredResponse(SQLModel, table=True):
    """A response that clients can retrieve later. `created_at` and `seen_at` are in milliseconds.

    `body` is the response and `input_items` its input, both JSON text. With the events, they are
    the only places where prompts and answers are stored. `next_sequence` is the number of the next
    event. `seen_at` is the last sign of life of the worker of an unfinished response.
    """

    __tablename__ = "stored_response"
    __table_args__: Any = (
        Index("ix_stored_response_created_at", "created_at"),
        # A tenant's stored bytes are summed from this index alone.
        Index("ix_stored_response_tenant_id_created_at", "tenant_id", "created_at", "size_bytes"),
    )

    id: str = Field(primary_key=True, max_length=64)
    tenant_id: str = Field(foreign_key="tenant.id", max_length=40)
    created_at: int = Field(sa_type=BigInteger)
    previous_id: str | None = Field(default=None, max_length=64)
    status: str = Field(max_length=16)
    body: str = Field(sa_type=Text)
    input_items: str = Field(sa_type=Text)
    size_bytes: int = Field(sa_type=BigInteger)
    next_sequence: int = Field(sa_type=BigInteger)
    seen_at: int = Field(sa_type=BigInteger)


class StoredResponseEvent(SQLModel, table=True):
    """Events of a background response as sent, several in a row, from `first_sequence` on."""

    __tablename__ = "stored_response_event"

    response_id: str = Field(
        primary_key=True, foreign_key="stored_response.id", ondelete="CASCADE", max_length=64
    )
    first_sequence: int = Field(
        sa_column=Column(BigInteger, primary_key=True, autoincrement=False, nullable=False)
    )
    frames: str = Field(sa_type=Text)
