"""Keys whose content goes into spans are marked in the audit of their tenant."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.audit import log as audit_log
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.content_capture import ACTION, note_content_keys
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import load_pepper
from orchestrator.settings import Settings, SettingsError, TelemetrySettings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate

SECRET = "op_live_26f2_" + "0123456789abcdef" * 2


async def noted(settings: Settings, tenant_id: str) -> list[str]:
    database = Database(settings)
    async with database.reading() as session:
        lines = await audit_log.listed(
            session,
            tenant_id=tenant_id,
            before_seq=None,
            action=ACTION,
            start_at=None,
            end_at=None,
            limit=10,
        )
    await database.close()
    return [line.target for line in lines]


async def test_every_start_marks_the_keys_that_settings_name(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    await migrate(settings)
    database = Database(settings)
    async with database.unit_of_work() as session:
        tenant = await tenants.ensure(session, "acme", 1)
        new = NewKey(label="app", tenant_id=tenant.id)
        key = await key_queries.create(session, new, SECRET, load_pepper(settings), 1)
        tenant_id, key_id = tenant.id, key.id
    await database.close()
    await note_content_keys(settings)
    assert await noted(settings, tenant_id) == []
    named = settings.model_copy(update={"telemetry": TelemetrySettings(content_keys=(key_id,))})
    await note_content_keys(named)
    await note_content_keys(named)
    assert await noted(settings, tenant_id) == [key_id, key_id]
    assert await noted(settings, "ten_other") == []


async def test_a_key_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path / "data", telemetry=TelemetrySettings(content_keys=("key_none",))
    )
    await migrate(settings)
    with pytest.raises(SettingsError, match="key_none"):
        await note_content_keys(settings)
