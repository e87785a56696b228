from __future__ import annotations

from pathlib import Path

import pytest

from build_engines.journal import Journal


def test_stages_are_told_timed_and_written_down(tmp_path: Path) -> None:
    told: list[str] = []
    journal = Journal(tmp_path / "logs" / "model.log", told.append)
    journal.stage("converting")
    journal.stage("testing")
    journal.end()
    assert told == ["converting", "testing"]
    assert journal.stages.keys() == {"converting", "testing"}
    lines = journal.path.read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == told


def test_a_new_build_begins_a_new_file(tmp_path: Path) -> None:
    for text in ("first", "second"):
        Journal(tmp_path / "model.log", lambda _stage: None).write(text)
    assert "first" not in (tmp_path / "model.log").read_text()


def test_a_journal_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    journal = Journal(tmp_path / "logs" / "model.log", lambda _stage: None)
    journal.stage("converting")
    journal.end()
    assert journal.stages.keys() == {"converting"}
    with pytest.raises(OSError, match="Not a directory"):
        journal.path.read_text()
