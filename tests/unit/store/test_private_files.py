from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from orchestrator.settings import SettingsError
from orchestrator.store.private_files import (
    exclusive,
    prepare_folder,
    read_or_create_private,
    read_text,
    write_private,
)


def test_private_file_is_0600_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old and open")
    path.chmod(0o644)
    write_private(path, "new\n", "data_dir")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_file_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^`data_dir`: .*No such file"):
        write_private(tmp_path / "missing" / "secret", "x", "data_dir")


def test_failed_replace_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    with pytest.raises(SettingsError):
        write_private(tmp_path / "secret", "x", "data_dir")
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_threads_that_start_together_get_the_same_text(tmp_path: Path) -> None:
    made: list[str] = []
    answers: list[str] = []

    def make() -> str:
        made.append("x")
        return f"text {len(made)}"

    def ask() -> None:
        answers.append(read_or_create_private(tmp_path / "pepper", make, "data_dir"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) == {"text 1"}
    assert len(made) == 1


def test_lock_held_by_another_is_waited_for_and_then_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = pytest.raises(SettingsError, match=r"another process has held `.*lock` for more than")
    with exclusive(path, "data_dir"), held, exclusive(path, "data_dir", timeout_s=0.05):
        pass
    with exclusive(path, "data_dir", timeout_s=0.05):
        pass


def test_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o750)
    prepare_folder(folder, "data_dir")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(SettingsError, match=r"cannot be read: not UTF-8 text$"):
        read_text(tmp_path / "pepper", "security.pepper_file")
