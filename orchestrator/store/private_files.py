"""Folders and files that only their owner may read, written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.settings import SettingsError

_POLL_S = 0.02


def prepare_folder(path: Path, setting: str) -> None:
    """Makes `path` 0700 when it is not there. Raises: SettingsError that names `setting`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unusable(path, setting, error) from error
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise SettingsError(f"`{setting}` is `{path}`, and this user may not write there")


def write_private(path: Path, text: str, setting: str) -> None:
    """Puts `text` at `path` with mode 0600; a crash leaves the old file or the new one.

    Raises: SettingsError that names `setting`.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unusable(path, setting, error) from error


def read_or_create_private(path: Path, make: Callable[[], str], setting: str) -> str:
    """The text at `path`, made up by `make` the first time.

    Processes that start together get the same text. Raises: SettingsError that names `setting`.
    """
    with suppress(FileNotFoundError):
        return read_text(path, setting)
    with exclusive(path.with_name(f"{path.name}.lock"), setting):
        with suppress(FileNotFoundError):
            return read_text(path, setting)
        write_private(path, make(), setting)
    return read_text(path, setting)


def read_text(path: Path, setting: str) -> str:
    """The text at `path` without the line end. Raises: FileNotFoundError, SettingsError."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"`{setting}`: `{path}` cannot be read: {reason}") from error


@contextmanager
def exclusive(path: Path, setting: str, timeout_s: float = 60.0) -> Iterator[None]:
    """Holds the lock file `path`; the kernel lets go of it when the process ends.

    Raises: SettingsError when another process holds it for longer than `timeout_s`.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, setting, error) from error
    try:
        _lock(descriptor, path, timeout_s)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"another process has held `{path}` for more than {timeout_s:g} s"
                ) from None
            time.sleep(_POLL_S)
        else:
            return


def _unusable(path: Path, setting: str, error: OSError) -> SettingsError:
    return SettingsError(f"`{setting}`: `{path}` cannot be written: {error.strerror or error}")
