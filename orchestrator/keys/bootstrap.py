"""The first tenant and the first key of an install."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.audit import log as audit_log
from orchestrator.keys import queries as key_queries
from orchestrator.keys import tenants
from orchestrator.keys.queries import NewKey
from orchestrator.keys.secret import (
    KEY_FORMAT,
    Pepper,
    is_key_secret,
    load_pepper,
    load_previous_peppers,
    new_key_secret,
)
from orchestrator.settings import Settings, SettingsError
from orchestrator.store.database import Database, Session, turn
from orchestrator.store.private_files import read_text, write_private

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FirstKey:
    """A generated key that was not shown yet. It is also in the file `path`, mode 0600."""

    key_id: str
    secret: str = field(repr=False)
    path: Path

    def shown(self) -> None:
        """Marks the key as shown, so that no later start shows it again."""
        _marker(self.path).unlink(missing_ok=True)


async def bootstrap(settings: Settings) -> FirstKey | None:
    """Creates the tenant and the first admin key of an empty store; call it after `migrate`.

    Returns the generated key, from this start or from an earlier one that failed before it was
    shown. A key given by `bootstrap.admin_key` or `bootstrap.admin_key_file` is added at every
    start if it is missing, so an unattended install may run again and again.
    Raises: SettingsError, StoreError.
    """
    given = _given_key(settings)
    pepper = load_pepper(settings)
    previous = load_previous_peppers(settings)
    database = Database(settings)
    try:
        async with database.unit_of_work() as session:
            await turn(session, "bootstrap")
            await _refuse_foreign_pepper(session, (pepper, *previous))
            if given is not None:
                await _ensure_key(session, settings, given, (pepper, *previous))
                return None
            path = settings.data_dir / "first-key"
            if not await key_queries.is_empty(session):
                return await _not_shown_yet(session, path, (pepper, *previous))
            secret = new_key_secret()
            key_id = await _add(session, settings, secret, pepper)
            # Written before the commit: the store must not hold a key whose secret is lost.
            write_private(path, secret + "\n", "data_dir")
            write_private(_marker(path), "", "data_dir")
            return FirstKey(key_id, secret, path)
    finally:
        await database.close()


def _marker(path: Path) -> Path:
    """The path of the file that exists until the key at `path` has been shown."""
    return path.with_name(f"{path.name}.not-shown")


async def _not_shown_yet(
    session: Session, path: Path, peppers: tuple[Pepper, ...]
) -> FirstKey | None:
    try:
        read_text(_marker(path), "data_dir")
        secret = read_text(path, "data_dir")
    except FileNotFoundError:
        return None
    found = await key_queries.find_by_digests(
        session, [pepper.digest(secret) for pepper in peppers]
    )
    if found is None or found.key.status == "revoked":
        return None
    return FirstKey(found.key.id, secret, path)


def _given_key(settings: Settings) -> str | None:
    """The configured first key, if any. Raises: SettingsError, never with the key in it."""
    given = settings.bootstrap
    if given.admin_key is not None and given.admin_key_file is not None:
        raise SettingsError(
            "`bootstrap.admin_key` and `bootstrap.admin_key_file` are both set; give one"
        )
    if given.admin_key is not None:
        name, key = "bootstrap.admin_key", given.admin_key.get_secret_value().strip()
    elif (path := given.admin_key_file) is not None:
        name = "bootstrap.admin_key_file"
        try:
            key = read_text(path, name)
        except FileNotFoundError:
            raise SettingsError(f"`{name}` is `{path}`, which does not exist") from None
    else:
        return None
    if not is_key_secret(key):
        raise SettingsError(f"`{name}` does not hold a key in the format `{KEY_FORMAT}`")
    return key


async def _ensure_key(
    session: Session, settings: Settings, secret: str, peppers: tuple[Pepper, ...]
) -> None:
    found = await key_queries.find_by_digests(
        session, [pepper.digest(secret) for pepper in peppers]
    )
    if found is None:
        await _add(session, settings, secret, peppers[0])
    elif found.key.status == "revoked":
        _log.warning("the key given by `bootstrap` is revoked (%s) and stays so", found.key.id)


async def _add(session: Session, settings: Settings, secret: str, pepper: Pepper) -> str:
    now = int(time.time())
    tenant = await tenants.ensure(session, settings.bootstrap.tenant, now)
    new = NewKey(label="first key", tenant_id=tenant.id, scope="admin")
    key = await key_queries.create(session, new, secret, pepper, now)
    act = audit_log.Act(
        actor="system:bootstrap",
        action="bootstrap.key",
        target=key.id,
        tenant_id=tenant.id,
        after={"label": key.label, "tenant": tenant.name, "scope": key.scope},
    )
    await audit_log.note(session, act)
    return key.id


async def _refuse_foreign_pepper(session: Session, peppers: tuple[Pepper, ...]) -> None:
    """Refuses another pepper: with it every valid key would be rejected as unknown."""
    counts = await key_queries.count_active_by_pepper(session)
    if counts and counts.keys().isdisjoint(pepper.id for pepper in peppers):
        raise SettingsError(
            f"the {sum(counts.values())} active keys in the store were made with another pepper: "
            "put back the old `security.pepper` (or the file `pepper` in `data_dir`), or name it "
            "in `security.previous_peppers`, or revoke those keys"
        )
