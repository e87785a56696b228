from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.reference.checkpoints import write_decoder
from tests.unit.build_engines.conftest import ROOT

pytestmark = pytest.mark.slow

#: Runs the builder where no file may grow beyond a size, as on a disk that fills up.
_SMALL_FILES = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.argv = sys.argv[1:]
runpy.run_module("build_engines", run_name="__main__")
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    for name in ("first", "second"):
        write_decoder(tmp_path / name, "llama")
    entries = [
        f'[[model]]\nid = "test/{name}"\nname = "{name}"\ntask = "generate"\n'
        f'context_tokens = 128\n[model.engine]\ncheckpoint = "{tmp_path / name}"\n'
        for name in ("first", "second")
    ]
    file = tmp_path / "catalogue.toml"
    file.write_text("\n".join(entries))
    return file


def command(catalogue: Path, *arguments: str) -> list[str]:
    paths = ["--catalogue", str(catalogue), "--repository", str(catalogue.parent / "repository")]
    return [sys.executable, "-m", "build_engines", *paths, *arguments]


def run(catalogue: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(catalogue, *arguments), cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_all_models_are_built_once_and_then_left_as_they_are(catalogue: Path) -> None:
    first = run(catalogue, "--json")
    assert first.returncode == 0, first.stderr
    assert [result["status"] for result in json.loads(first.stdout)] == ["built", "built"]
    assert "test/first: converting the weights (" in first.stderr
    files = {
        path: path.stat().st_mtime_ns
        for path in (catalogue.parent / "repository").glob("*/1/**/*")
        if path.is_file()
    }
    assert files
    second = run(catalogue, "--json")
    assert [result["status"] for result in json.loads(second.stdout)] == ["up_to_date"] * 2
    assert all(path.stat().st_mtime_ns == changed for path, changed in files.items())
    assert "converting the weights" not in second.stderr


def test_one_model_is_chosen_by_id_or_directory_name(catalogue: Path) -> None:
    assert run(catalogue, "test/first").returncode == 0
    planned = run(catalogue, "second", "--dry-run").stderr
    assert "engines: test/second: LlamaForCausalLM for `cpu`" in planned
    assert "engines: test/second: would build (" in planned
    repository = catalogue.parent / "repository"
    assert (repository / "first").is_dir()
    assert not (repository / "second").exists()


def test_a_dry_run_writes_nothing(catalogue: Path) -> None:
    assert run(catalogue, "--dry-run").returncode == 0
    assert not (catalogue.parent / "repository").exists()


def test_one_broken_model_does_not_keep_the_others_from_being_built(catalogue: Path) -> None:
    (catalogue.parent / "first" / "model.safetensors").unlink()
    done = run(catalogue, "--json")
    assert done.returncode == 1
    broken, good = json.loads(done.stdout)
    assert (broken["status"], good["status"]) == ("failed", "built")
    assert "file `model.safetensors` is missing" in broken["error"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nobody",), "model `nobody` is not in the catalogue; it lists: test/first, test/second"),
        (("--catalogue", "nowhere.toml"), "nowhere.toml: No such file or directory"),
    ],
)
def test_wrong_usage_is_one_sentence(
    catalogue: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run(catalogue, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_builder_waits_for_the_first(catalogue: Path) -> None:
    first = subprocess.Popen(command(catalogue), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    first.stderr.readline()
    second = run(catalogue, "--json")
    first.communicate(timeout=60)
    assert first.returncode == second.returncode == 0
    assert {result["status"] for result in json.loads(second.stdout)} == {"up_to_date"}


def test_sigterm_leaves_nothing_half_built(catalogue: Path) -> None:
    process = subprocess.Popen(
        command(catalogue), cwd=ROOT, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stderr is not None
    while "converting" not in process.stderr.readline():
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    repository = catalogue.parent / "repository"
    left = {entry.name for entry in repository.iterdir()} - {".lock", ".logs"}
    if process.returncode == 130:
        assert "interrupted" in rest
        assert left <= {"first"}
    for name in left:
        assert (repository / name / "1" / "manifest.json").is_file()


def test_a_killed_builder_leaves_the_last_version_serving(catalogue: Path) -> None:
    assert run(catalogue, "first").returncode == 0
    process = subprocess.Popen(
        command(catalogue, "first", "--force"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while "converting" not in process.stderr.readline():
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    repository = catalogue.parent / "repository"
    config = (repository / "first" / "config.pbtxt").read_text()
    assert "versions: [ 1 ]" in config
    again = run(catalogue, "first", "--json")
    assert json.loads(again.stdout)[0]["status"] == "up_to_date"
    left = {entry.name for entry in repository.iterdir()}
    assert left == {"first", ".lock", ".logs"}


def test_a_disk_that_fills_up_leaves_the_last_version_serving(catalogue: Path) -> None:
    assert run(catalogue, "first").returncode == 0
    limited = [
        sys.executable,
        "-c",
        _SMALL_FILES,
    ]
    arguments = command(catalogue, "first", "--force", "--json")[2:]
    done = subprocess.run(
        [*limited, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["status"] == "failed"
    assert "cannot build test/first: " in done.stderr
    assert f"log: {catalogue.parent / 'repository' / '.logs' / 'first.log'}" in done.stderr
    repository = catalogue.parent / "repository"
    assert "versions: [ 1 ]" in (repository / "first" / "config.pbtxt").read_text()
    assert {entry.name for entry in repository.iterdir()} == {"first", ".lock", ".logs"}


def test_a_rollback_is_a_command(catalogue: Path) -> None:
    assert run(catalogue, "first").returncode == 0
    refused = run(catalogue, "first", "--rollback")
    assert refused.returncode == 1
    assert "model `first` has version 1 only: there is nothing to go back to" in refused.stderr
    assert run(catalogue, "first", "--force").returncode == 0
    done = run(catalogue, "first", "--rollback", "--json")
    assert "test/first: rolled back, version 1 is served" in done.stderr
    assert json.loads(done.stdout)[0]["version"] == 1


def test_a_target_that_cannot_be_built_here_is_planned_all_the_same(catalogue: Path) -> None:
    planned = run(catalogue, "first", "--target", "trtllm", "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    (result,) = json.loads(planned.stdout)
    assert result["plan"]["commands"][1][0] == "trtllm-build"
    assert "note: no GPU here" in planned.stderr
