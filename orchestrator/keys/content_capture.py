"""Audit lines which say that prompts and completions of a key go into spans."""

from __future__ import annotations

from orchestrator.audit import log as audit_log
from orchestrator.audit.log import Act
from orchestrator.keys import queries as key_queries
from orchestrator.settings import Settings, SettingsError
from orchestrator.store.database import Database

ACTION = "telemetry.content"


async def note_content_keys(settings: Settings) -> None:
    """Writes a line for each key of `telemetry.content_keys` to the audit of the key's tenant.

    Done at every start, because it says what applies from then on.
    Raises: SettingsError when there is no such key, StoreError.
    """
    key_ids = settings.telemetry.content_keys
    if not key_ids:
        return
    database = Database(settings)
    try:
        async with database.unit_of_work() as session:
            acts = []
            for key_id in key_ids:
                if (key := await key_queries.find(session, key_id)) is None:
                    raise SettingsError(
                        f"`telemetry.content_keys` names `{key_id}`, and there is no such key"
                    )
                acts.append(
                    Act(
                        actor="system:settings",
                        action=ACTION,
                        target=key.id,
                        tenant_id=key.tenant_id,
                        after={"content_in_spans": True},
                    )
                )
            await audit_log.note_all(session, acts)
    finally:
        await database.close()
