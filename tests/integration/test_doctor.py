"""`orchestrator doctor` beside a running appliance, and where none runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from tests.integration.serving import Serving, free_port, settings_env


def doctor(*options: str, **settings: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor", *options],
        env=settings_env(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def findings(*options: str, **settings: object) -> tuple[int, dict[str, Any]]:
    code, text = doctor("--json", *options, **settings)
    document = json.loads(text)
    levels = {"ok": 0, "warning": 1, "failed": 2}
    assert code == levels[document["status"]]
    assert code == max(levels[one["level"]] for one in document["findings"])
    return code, {one["subject"]: one for one in document["findings"]}


def test_a_running_appliance_is_well(appliance: Serving) -> None:
    code, found = findings("--deep", DATA_DIR=appliance.data_dir, SERVER__PORT=appliance.port)
    # The clock of a container is often set by its host alone.
    assert code < 2, found
    assert found["port"]["text"] == f"{appliance.port}: the appliance answers (ok)"
    assert found["appliance"]["text"] == "requests succeed"
    assert found["triton child"]["text"].startswith("ready")
    assert found["database"]["level"] == "ok"
    assert "hashes right" in found["model demo/chat"]["text"]


def test_a_machine_where_nothing_runs_yet_is_well_and_nothing_is_made(
    demo_models: None, tmp_path: Path
) -> None:
    code, text = doctor(DATA_DIR=tmp_path / "data", SERVER__PORT=free_port())
    assert code < 2, text
    assert "the first start makes it" in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_the_policy_engine_lacks_is_a_finding(tmp_path: Path) -> None:
    """The same package, but that it asks the loader for a library that is on no machine."""
    for name in ("regopy", "regopy.libs"):
        shutil.copytree(Path(sysconfig.get_path("purelib")) / name, tmp_path / name)
    library = tmp_path / "regopy" / "librego_shared.so"
    code = library.read_bytes()
    assert b"libatomic.so.1\0" in code
    library.write_bytes(code.replace(b"libatomic.so.1\0", b"libabsent.so.1\0"))
    environment = {**settings_env({"DATA_DIR": tmp_path / "data"}), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "")
    found = {one["subject"]: one for one in json.loads(done.stdout)["findings"]}
    assert found["policy"]["level"] == "failed"
    assert "libabsent.so.1: cannot open" in found["policy"]["text"]
    assert "the package libatomic1" in found["policy"]["text"]
    assert found["python"]["level"] == "ok"
    assert found["appliance"]["level"] == "ok"


def test_settings_that_cannot_be_read_have_the_exit_code_of_a_failure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor"],
        env=settings_env({"NO_SUCH_SETTING": "1"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "unknown setting" in done.stderr
