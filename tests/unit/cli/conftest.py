from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.__main__ import main

_CATALOGUE = """
[[model]]
id = "acme/chat"
name = "acme-chat"
task = "generate"
context_tokens = 512
aliases = ["quick:chat"]
[model.engine]
checkpoint = "somewhere"

[[model]]
id = "acme/embed"
name = "acme-embed"
task = "embed"
context_tokens = 256
[model.engine]
checkpoint = "somewhere"
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line in an empty folder: exit code, standard output, standard error."""
    (tmp_path / "catalogue.toml").write_text(_CATALOGUE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ORCHESTRATOR_CATALOGUE", str(tmp_path / "catalogue.toml"))
    monkeypatch.setenv("ORCHESTRATOR_TRITON__REPOSITORY", str(tmp_path / "repository"))

    def run_line(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        written = capsys.readouterr()
        return code, written.out, written.err

    return run_line


@pytest.fixture
def migrated(run: Run) -> Run:
    assert run("migrate") == (0, "The store is now up to date.\n", "")
    return run
