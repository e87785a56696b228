"""The status file: written whole, read by other processes."""

from __future__ import annotations

from pathlib import Path

from orchestrator.supervisor.state import (
    Endpoint,
    State,
    forget_state,
    read_state,
    run_folder,
    write_state,
)


def test_state_is_read_as_written(tmp_path: Path) -> None:
    run_folder(tmp_path).mkdir()
    state = State("down", reason="it has not answered for 2 s", restarts=3, pid=42)
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert [path.name for path in run_folder(tmp_path).iterdir()] == ["status.json"]


def test_no_file_or_another_programs_file_is_no_state(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    run_folder(tmp_path).mkdir()
    for text in ("", "[]", "{}", '{"phase": "ready", "colour": "green"}'):
        (run_folder(tmp_path) / "status.json").write_text(text, encoding="utf-8")
        assert read_state(tmp_path) is None


def test_forgotten_state_is_gone(tmp_path: Path) -> None:
    run_folder(tmp_path).mkdir()
    write_state(tmp_path, State("starting"))
    forget_state(tmp_path)
    forget_state(tmp_path)
    assert read_state(tmp_path) is None


def test_token_does_not_show_when_an_endpoint_is_printed() -> None:
    assert "secret" not in repr(Endpoint("unix:/x", "secret", "id"))
