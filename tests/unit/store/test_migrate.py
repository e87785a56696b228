from __future__ import annotations

import asyncio
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Connection, inspect, text

from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.settings import Settings
from orchestrator.store.database import Database, StoreError
from orchestrator.store.migrate import alembic_config, migrate
from orchestrator.store.tables import SCHEMA_REVISION, metadata


def _differences(connection: Connection) -> list[object]:
    def other_default(*seen: Any) -> bool | None:
        _, _, column, stored, _, wanted = seen
        # PostgreSQL has no `=` for JSON, by which Alembic would compare; `None` lets Alembic do it.
        if not isinstance(column.type, JSON):
            return None
        return bool((stored or "").partition("::")[0].strip("'") != (wanted or "").strip("'"))

    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": other_default}
    )
    return list(compare_metadata(context, metadata()))


def _shape(connection: Connection) -> dict[str, object]:
    """Constraints too, which Alembic's comparison leaves out in part."""
    inspector = inspect(connection)
    return {
        table: {
            "columns": [
                (column["name"], str(column["type"]), column["nullable"])
                for column in inspector.get_columns(table)
            ],
            "key": inspector.get_pk_constraint(table),
            "checks": sorted(str(check) for check in inspector.get_check_constraints(table)),
            "unique": sorted(str(unique) for unique in inspector.get_unique_constraints(table)),
            "foreign": sorted(str(key) for key in inspector.get_foreign_keys(table)),
            "indexes": sorted(str(index) for index in inspector.get_indexes(table)),
        }
        for table in metadata().tables
    }


async def test_migrations_arrive_at_the_models(each_database: Database) -> None:
    async with each_database.migrating() as connection:
        assert await connection.run_sync(_differences) == []
        migrated = await connection.run_sync(_shape)
        await connection.run_sync(metadata().drop_all)
        await connection.run_sync(metadata().create_all)
        assert await connection.run_sync(_shape) == migrated
    await each_database.check_schema()


async def test_second_migration_has_nothing_to_do(each_settings: Settings) -> None:
    assert await migrate(each_settings) is True
    assert await migrate(each_settings) is False


async def test_migrations_can_be_taken_back(each_database: Database) -> None:
    def down(connection: Connection) -> list[str]:
        command.downgrade(alembic_config(connection), "base")
        return inspect(connection).get_table_names()

    async with each_database.migrating() as connection:
        assert await connection.run_sync(down) == ["alembic_version"]


async def test_revision_of_the_tables_is_the_newest_migration(each_database: Database) -> None:
    def head(connection: Connection) -> str | None:
        return ScriptDirectory.from_config(alembic_config(connection)).get_current_head()

    async with each_database.migrating() as connection:
        assert await connection.run_sync(head) == SCHEMA_REVISION


async def test_migration_that_fails_leaves_the_schema_as_it_was(each_settings: Settings) -> None:
    database = Database(each_settings)
    async with database.migrating() as connection:
        await connection.execute(text("CREATE TABLE virtual_key (in_the_way TEXT)"))
    with pytest.raises(StoreError):
        await migrate(each_settings)
    async with database.migrating() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await database.close()
    assert names == ["virtual_key"]


async def test_store_of_a_newer_version_is_left_alone(
    each_settings: Settings, each_database: Database
) -> None:
    async with each_database.migrating() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'tomorrow'"))
    with pytest.raises(StoreError, match=r"was set up by another version of this program"):
        await migrate(each_settings)


async def test_migrations_that_start_together_happen_once(each_settings: Settings) -> None:
    outcomes = await asyncio.gather(*[migrate(each_settings) for _ in range(6)])
    assert sorted(outcomes) == [False] * 5 + [True]


async def test_upgrade_keeps_the_rows_of_the_first_schema(each_settings: Settings) -> None:
    database = Database(each_settings)

    def first(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "20261121_1")

    async with database.migrating() as connection:
        await connection.run_sync(first)
        await connection.execute(text("INSERT INTO tenant VALUES ('ten_1', 'acme', 1)"))
        await connection.execute(
            text(
                "INSERT INTO virtual_key VALUES ('key_1', 'ten_1', 'old', 'op_live_0000', '0000',"
                " :digest, 'pepper', 'admin', '[\"*\"]', 'active', 1, NULL, NULL, NULL)"
            ),
            {"digest": b"x" * 32},
        )
    assert await migrate(each_settings) is True
    async with database.reading() as session:
        (key,) = await key_queries.listed(session)
        (tenant,) = await tenants.listed(session)
    await database.close()
    assert (key.label, key.policy_id, key.plan, key.rpm_limit) == ("old", "pol_default", None, None)
    assert (key.key_metadata, key.previous_digest) == ({}, None)
    assert (tenant.name, tenant.api_disabled, tenant.tpd_limit) == ("acme", False, None)
