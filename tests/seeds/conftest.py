"""The appliance that the snippets talk to, and what they need to run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.settings import PROJECT_ROOT
from tests.integration.conftest import appliance, demo_models
from tests.integration.serving import Serving
from tests.programs import npm, program

__all__ = ["appliance", "demo_models"]

HERE = Path(__file__).parent
SNIPPETS = HERE / "snippets"
NODE = HERE / "node"
TIMEOUT_S = 110.0


@dataclass(frozen=True)
class Seeds:
    """Runs snippets with `OPERAYDE_BASE` and `OPERAYDE_KEY` set, as the quick start says."""

    base: str
    key: str
    folder: Path

    def text(self, name: str, changes: Mapping[str, str] | None = None) -> str:
        """The snippet as printed, with `changes` made; every one of them must be in it."""
        text = (SNIPPETS / f"{name}.txt").read_text(encoding="utf-8")
        for old, new in (changes or {}).items():
            assert old in text, f"{name} does not hold {old!r}"
            text = text.replace(old, new)
        return text

    def shell(self, snippet: str) -> str:
        """What a shell snippet prints. Skips where a program that it calls is missing."""
        for needed in ("curl", "jq"):
            if needed in snippet.split():
                program(needed)
        return self._run(["bash", "-e", "-o", "pipefail", "-c", snippet])

    def python(self, snippet: str) -> str:
        """What a Python snippet prints."""
        return self._run([sys.executable, "-c", snippet])

    def typescript(self, snippet: str, modules: Path, *flags: str) -> str:
        """What a TypeScript (or JavaScript) snippet prints, run where its packages lie."""
        file = self.folder / "snippet.ts"
        file.write_text(snippet, encoding="utf-8")
        return self._run([program("node"), *flags, str(modules / "run.mjs"), str(file)])

    def _run(self, command: list[str]) -> str:
        environment = os.environ | {"OPERAYDE_BASE": self.base, "OPERAYDE_KEY": self.key}
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
        )
        errors = done.stderr.decode("utf-8")
        assert done.returncode == 0, errors
        assert "Error" not in errors, errors
        return done.stdout.decode("utf-8")


@pytest.fixture
def seeds(appliance: Serving, tmp_path: Path) -> Seeds:
    """The snippets and the appliance."""
    return Seeds(appliance.base_url, appliance.key, tmp_path)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """A folder in the cache with the locked npm packages. Skips where there is no node."""
    lock = (NODE / "package-lock.json").read_bytes()
    folder = PROJECT_ROOT / ".cache" / f"seed-snippets-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "run.mjs"):
        shutil.copy(NODE / name, folder / name)
    install = [*npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    # Other processes that test want the same folder at the same time.
    with (folder / "lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not (folder / "node_modules" / ".package-lock.json").is_file():
            done = subprocess.run(install, cwd=folder, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr.decode("utf-8")
    return folder
