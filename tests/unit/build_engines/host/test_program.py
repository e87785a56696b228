from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from build_engines.host.program import Command, ProgramError, run, started
from build_engines.journal import Journal
from tests.unit.build_engines.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "logs" / "model.log", lambda _stage: None)


def shell(script: str) -> Command:
    return Command("converting", ("sh", "-c", script))


def test_what_a_program_prints_is_in_the_journal(journal: Journal) -> None:
    run(shell("echo out; echo error >&2"), journal)
    journal.end()
    text = journal.path.read_text()
    assert "runs: sh -c" in text
    assert "out\nerror\n" in text
    assert list(journal.stages) == ["converting"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo CUDA out of memory; exit 3",
            "`sh` ended with code 3 while converting: CUDA out of m",
        ),
        ("kill -9 $$", "`sh` was killed by signal 9 while converting"),
    ],
)
def test_a_program_that_fails_is_named_with_its_last_words(
    journal: Journal, script: str, message: str
) -> None:
    with pytest.raises(ProgramError, match=message):
        run(shell(script), journal)


def test_a_program_that_is_not_there_belongs_to_the_gpu_image(journal: Journal) -> None:
    command = Command("building", ("trtllm-build-of-nobody",))
    with pytest.raises(ProgramError, match=r"No such file or directory.*inside the GPU image"):
        run(command, journal)


def test_children_end_with_what_started_them(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    script = f"sleep 600 & echo $! $$ > {ids}.new; mv {ids}.new {ids}; wait"
    with started(("sh", "-c", script), subprocess.DEVNULL):
        while not ids.exists():
            os.sched_yield()
        processes = [psutil.Process(int(pid)) for pid in ids.read_text().split()]
    gone, alive = psutil.wait_procs(processes, timeout=60)
    assert len(gone) == 2
    assert alive == []


def test_a_killed_builder_takes_its_program_along(tmp_path: Path) -> None:
    ids = tmp_path / "id"
    program = textwrap.dedent(f"""
        import subprocess
        from build_engines.host.program import started
        script = "echo $$ > {ids}.new; mv {ids}.new {ids}; exec sleep 600"
        with started(("sh", "-c", script), subprocess.DEVNULL) as process:
            process.wait()
    """)
    builder = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    while not ids.exists():
        os.sched_yield()
    child = psutil.Process(int(ids.read_text()))
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert psutil.wait_procs([child], timeout=60)[1] == []
