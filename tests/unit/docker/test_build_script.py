"""`build.sh`, with the project's own environment in the place of the image's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from orchestrator.settings import PROJECT_ROOT
from tests.unit.docker.tools import DOCKER


def built(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    catalogue = PROJECT_ROOT / "model_repository" / "catalogue.toml"
    (repository / "catalogue.toml").write_text(catalogue.read_text(encoding="utf-8"))
    return subprocess.run(
        [str(DOCKER / "build.sh"), *arguments],
        cwd=PROJECT_ROOT,
        env={"PATH": os.defpath, "PYTHON": sys.executable, "MODEL_REPOSITORY": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_models_of_the_mounted_catalogue_are_planned(tmp_path: Path) -> None:
    done = built(tmp_path, "demo/chat", "--target", "trtllm", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["model"], result["status"]) == ("demo/chat", "would_build")
    assert result["plan"]["backend"] == "tensorrtllm"


def test_a_model_that_the_mounted_catalogue_lacks_is_wrong_usage(tmp_path: Path) -> None:
    done = built(tmp_path, "instruct-13b")
    assert done.returncode == 2
    assert "instruct-13b" in done.stderr
