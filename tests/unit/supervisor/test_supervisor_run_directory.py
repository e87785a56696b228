"""What is put into a run directory, and what is found of earlier ones."""

from __future__ import annotations

import stat
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.supervisor.installation import Installation, StartError, find_installation
from orchestrator.supervisor.run_directory import assemble, remove_stale_runs

RUN_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    backend = tmp_path / "repository" / "backends" / "engine"
    (backend / "__pycache__").mkdir(parents=True)
    (backend / "model.py").write_text("", encoding="utf-8")
    (backend / "table.json").write_text("{}", encoding="utf-8")
    (tmp_path / "repository" / "backends" / "notes").mkdir()
    return tmp_path / "repository"


@pytest.fixture
def installation() -> Installation:
    return find_installation()


def test_every_backend_is_there_and_the_folder_is_private(
    tmp_path: Path, repository: Path, installation: Installation
) -> None:
    run = assemble(tmp_path / "data", RUN_ID, installation, repository)
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    assert sorted(path.name for path in run.backends.iterdir()) == ["engine", "python"]
    assert sorted(path.name for path in (run.backends / "engine").iterdir()) == [
        "model.py",
        "table.json",
    ]
    assert (run.backends / "python" / "triton_python_backend_stub").resolve() == installation.stub
    assert not (run.backends / "python" / "libtriton_python.so").is_symlink()
    assert run.repository.resolve() == repository
    run.remove()
    assert not run.path.exists()


@pytest.mark.parametrize("name", ["with space", "umläut", "x" * 120, "50%"])
def test_odd_or_long_names_go_to_a_temporary_folder(
    name: str, tmp_path: Path, repository: Path, installation: Installation
) -> None:
    run = assemble(tmp_path / name, RUN_ID, installation, repository)
    try:
        assert tmp_path not in run.path.parents
        assert len(str(run.socket)) < 108
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    finally:
        run.remove()
    assert not run.path.exists()
    assert not run.entry.exists()


def test_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, repository: Path, installation: Installation
) -> None:
    (tmp_path / "data").write_text("a file", encoding="utf-8")
    with pytest.raises(StartError, match=r"cannot be set up: Not a directory"):
        assemble(tmp_path / "data", RUN_ID, installation, repository)


def test_missing_file_of_the_wheel_is_one_sentence(
    tmp_path: Path, repository: Path, installation: Installation
) -> None:
    broken = replace(installation, backend_library=tmp_path / "nowhere.so")
    with pytest.raises(StartError, match="No such file"):
        assemble(tmp_path / "data", RUN_ID, broken, repository)


def test_stale_run_is_ended_and_removed_and_others_are_left(
    tmp_path: Path, repository: Path, installation: Installation
) -> None:
    run_id = uuid.uuid4().hex
    run = assemble(tmp_path / "data", run_id, installation, repository)
    shared = Path("/dev/shm") / f"{run.shared_memory_prefix}region"
    shared.write_bytes(b"")
    sleep = "import time; time.sleep(60)"
    ours = subprocess.Popen([sys.executable, "-c", sleep, f"--id=appliance-{run_id}"])
    other = subprocess.Popen([sys.executable, "-c", sleep, f"--id=appliance-{uuid.uuid4().hex}"])
    try:
        remove_stale_runs(tmp_path / "data")
        assert ours.wait(60) == -9
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
    assert not shared.exists()
    assert not run.path.exists()


def test_record_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    entry = tmp_path / "run" / "x"
    entry.mkdir(parents=True)
    for text in ("", "{}", '{"run_id": "*", "path": "/nowhere"}'):
        (entry / "record.json").write_text(text, encoding="utf-8")
        remove_stale_runs(tmp_path)
        assert entry.exists()
