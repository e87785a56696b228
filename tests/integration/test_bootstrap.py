"""The programs behind `make` that find a Python and make the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from build_engines.host import environment
from orchestrator.settings import PROJECT_ROOT

BOOTSTRAP = PROJECT_ROOT / "build_engines" / "host" / "bootstrap.py"
DEAD_SHIM = "#!/bin/sh\necho 'pyenv: version not installed' >&2\nexit 127\n"


def run_bootstrap(
    path: Path, values: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the bootstrap with `path` as the only folder of programs, and no environment yet."""
    env = {"PATH": str(path), "VENV": str(path / "environment"), **(values or {})}
    # Isolated, so that this interpreter does not count as one of the environment's.
    return subprocess.run(
        [sys.executable, "-I", str(BOOTSTRAP)],
        env=env,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def describing(version: tuple[int, int, int], *, shared: bool = True, pip: bool = True) -> str:
    """An interpreter that answers like one of `version`."""
    answer = f'[{list(version)}, {str(shared).lower()}, {str(pip).lower()}, "libpython3.so"]'
    return f"#!/bin/sh\necho '{answer}'\n"


def test_make_names_every_target_with_its_purpose() -> None:
    text = subprocess.run(
        ["make", "-C", str(PROJECT_ROOT), "--no-print-directory"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    phony = next(line for line in makefile.splitlines() if line.startswith(".PHONY:"))
    targets = [name for name in phony.split()[1:] if not name.startswith("check-")]
    assert [line.split()[1] for line in text.splitlines()] == targets
    assert {"help", "run", "test", "check"} < set(targets)


def test_wrong_python_by_name_is_one_sentence(tmp_path: Path) -> None:
    program(tmp_path / "python3.12", DEAD_SHIM)
    program(tmp_path / "old", describing((3, 10, 13)))
    result = run_bootstrap(tmp_path, {"PYTHON": str(tmp_path / "old")})
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "needs Python 3.11 or 3.12" in result.stderr
    assert "found 3.10.13" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (describing((3, 12, 1), shared=False), "without libpython3.so"),
        (describing((3, 12, 1), pip=False), "python3.12-venv"),
        (describing((3, 12, 1), shared=False, pip=False), "libpython3.so and ensurepip"),
        (describing((3, 13, 0)), "not 3.11 or 3.12"),
        (DEAD_SHIM, "found none"),
    ],
)
def test_python_that_lacks_something_is_named_with_it(
    text: str, words: str, tmp_path: Path
) -> None:
    program(tmp_path / "python", text)
    result = run_bootstrap(tmp_path, {"PYTHON": str(tmp_path / "python")})
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_dead_shims_and_old_versions_on_the_path_are_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "python3.12", DEAD_SHIM)
    program(tmp_path / "python3.11", describing((3, 10, 13)))
    # Says which script it was handed, instead of running it.
    fitting = describing((3, 11, 9)) + '[ "$1" = -c ] || { echo "$@" >&2; exit 7; }\n'
    program(tmp_path / "python3", fitting)
    result = run_bootstrap(tmp_path)
    assert result.returncode == 7
    assert "environment.py" in result.stderr


def test_folder_that_is_no_environment_is_not_overwritten(tmp_path: Path) -> None:
    kept = tmp_path / "environment" / "letters.txt"
    kept.parent.mkdir()
    kept.write_text("dear friend", encoding="utf-8")
    result = run_bootstrap(tmp_path, {"PYTHON": sys.executable})
    assert result.returncode == 1
    assert "is no Python environment" in result.stderr
    assert kept.read_text(encoding="utf-8") == "dear friend"


@pytest.mark.timeout(520)
def test_index_that_is_out_of_reach_fails_and_the_next_run_begins_anew(tmp_path: Path) -> None:
    nowhere = {"PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    for _ in range(2):
        result = run_bootstrap(tmp_path, {**nowhere, "PIP_CONFIG_FILE": os.devnull})
        assert result.returncode == 1
        assert result.stderr.count("making ") == 1
        assert "failed with code 1; its own words are above" in result.stderr
    assert not environment.is_current(tmp_path / "environment", dev=False)


def test_environment_is_current_only_for_these_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = tmp_path / "requirements"
    locks.mkdir()
    for name in ("uv.txt", "base.txt", "dev.txt", *environment.TEST_PARTS):
        (locks / name).write_text("one==1\n", encoding="utf-8")
    monkeypatch.setattr(environment, "REQUIREMENTS", locks)
    folder = tmp_path / "environment"
    folder.mkdir()
    (folder / environment.UNFINISHED).touch()
    assert not environment.is_current(folder, dev=False)
    environment._write_stamp(folder, dev=False)
    assert environment.is_current(folder, dev=False)
    assert not environment.is_current(folder, dev=True)
    (folder / environment.UNFINISHED).touch()
    environment._write_stamp(folder, dev=True)
    assert environment.is_current(folder, dev=False)
    assert environment.is_current(folder, dev=True)
    (locks / "dev.txt").write_text("one==2\n", encoding="utf-8")
    assert environment.is_current(folder, dev=False)
    assert not environment.is_current(folder, dev=True)


def test_too_little_disk_space_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        environment.BootstrapError, match=r"GB of free disk space in `.*`, there is"
    ):
        environment.check_disk(tmp_path / "environment", 2**62)


def test_too_little_memory_is_one_sentence() -> None:
    with pytest.raises(environment.BootstrapError, match=r"needs 1.0 GB of memory.* has 0.5 GB"):
        environment.check_memory(512 * 1024 * 1024)


def test_missing_libraries_are_named_with_their_packages_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = {"libabsent.so.1": "libabsent1", "libnowhere.so.2": "libnowhere2"}
    monkeypatch.setattr(environment, "LIBRARIES", {**environment.LIBRARIES, **absent})
    sentence = (
        r"needs libabsent\.so\.1 and libnowhere\.so\.2, not found on this machine;"
        r" in Debian and Ubuntu: sudo apt-get install libabsent1 libnowhere2$"
    )
    with pytest.raises(environment.BootstrapError, match=sentence):
        environment.install(tmp_path / "environment", dev=False)
    assert list(tmp_path.iterdir()) == []


def test_the_line_for_debian_and_ubuntu_is_the_same_everywhere(tmp_path: Path) -> None:
    program(tmp_path / "python", DEAD_SHIM)
    said = run_bootstrap(tmp_path, {"PYTHON": str(tmp_path / "python")}).stderr
    line = said[said.index("sudo apt-get") :].strip()
    assert f"\n{line}\n" in (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    # `make` without any Python says it, too.
    for name in ("sh", "make"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    bare = {"PATH": str(tmp_path), "VENV": str(tmp_path / "environment")}
    make = ["make", "-C", str(PROJECT_ROOT), "doctor"]
    done = subprocess.run(make, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"found none; in Debian 12 and Ubuntu 24.04: {line}\n" in done.stderr
    assert not (tmp_path / "environment").exists()


def test_this_machine_passes_its_own_check() -> None:
    environment.check_machine()


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("glibc 2.31", "this Linux has glibc 2.31"),
        ("musl", "another C library"),
    ],
)
def test_other_c_libraries_are_one_sentence(
    version: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "confstr", lambda _name: version)
    with pytest.raises(environment.BootstrapError, match=words):
        environment.check_machine()


def test_indexes_that_pip_knows_are_told_to_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://mirror.example/simple\n"
        "extra-index-url = https://one.example/simple\n    https://two.example/simple\n",
        encoding="utf-8",
    )
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    env = environment._uv_environment(Path(sys.executable))
    assert env["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert env["UV_INDEX"] == "https://one.example/simple https://two.example/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://chosen.example/simple")
    env = environment._uv_environment(Path(sys.executable))
    assert env["UV_DEFAULT_INDEX"] == "https://chosen.example/simple"
    assert "UV_INDEX" not in env
