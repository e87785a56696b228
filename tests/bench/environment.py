"""The benchmark's own environment: peers, profiler and plot, from locks, under `.cache/bench`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from orchestrator.settings import PROJECT_ROOT

FOLDER = PROJECT_ROOT / ".cache" / "bench"
REQUIREMENTS = PROJECT_ROOT / "requirements" / "bench.txt"
NODE_PACKAGES = Path(__file__).parent / "node" / "package.json"


def make() -> list[str]:
    """Installs what is not there; returns what could not be had, and why."""
    missing = []
    for name, install in (("Python packages", _python_packages), ("Portkey", _portkey)):
        try:
            install()
        except (OSError, subprocess.CalledProcessError) as error:
            missing.append(f"{name}: {error}")
    return missing


def python() -> Path:
    """The environment's Python."""
    return FOLDER / "venv" / "bin" / "python"


def program(name: str) -> Path:
    """A program of one of its packages."""
    return FOLDER / "venv" / "bin" / name


def portkey_server() -> Path:
    """What node is to run."""
    return (
        FOLDER / "node" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    )


def _python_packages() -> None:
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = FOLDER / "requirements.sha256"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    sys.stderr.write("bench: installing the peers into .cache/bench\n")
    uv = str(Path(sys.executable).with_name("uv"))
    venv = str(FOLDER / "venv")
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, venv], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(python()), "--require-hashes"]
    subprocess.run([*install, "-r", str(REQUIREMENTS)], check=True)
    stamp.write_text(wanted)


def _portkey() -> None:
    wanted, installed = NODE_PACKAGES.read_text(encoding="utf-8"), FOLDER / "node" / "package.json"
    if portkey_server().is_file() and installed.read_text(encoding="utf-8") == wanted:
        return
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise FileNotFoundError("there is no node on this machine")
    installed.parent.mkdir(parents=True, exist_ok=True)
    installed.write_text(wanted, encoding="utf-8")
    command = [npm, "install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts"]
    subprocess.run([*command, "--prefix", str(installed.parent)], check=True)
