"""Checks the machine: interpreter, clock, memory, disk, GPUs."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator import cgroup
from orchestrator.doctor.finding import Finding, failed, ok, warning
from orchestrator.settings import Settings

WANTED_PYTHONS = ((3, 11), (3, 12))
_MIB = 1024 * 1024
_LEAST_DISK_MIB, _LOW_DISK_MIB = 256, 2048
_LOW_SHARED_MEMORY_MIB = 128
_BESIDE_ENGINES_MIB = 512
"""Memory that the orchestrator and Triton need in addition to the engines' weights."""
_LEAST_DRIVER = 580
"""For CUDA 13, which the pinned TensorRT-LLM was built for. Source: its release notes."""
_NVIDIA_TIMEOUT_S = 10
_NVIDIA_FIELDS = "name,memory.total,driver_version,compute_cap"
_TIME_ERROR, _STA_UNSYNC = 5, 0x40
_TIMEX_BYTES, _TIMEX_STATUS_AT = 208, 40
"""Source: Linux, `struct timex` on 64-bit machines."""


def python() -> Finding:
    """Checks the interpreter that runs this."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    where = f"{version}, {sys.executable}"
    if sys.version_info[:2] not in WANTED_PYTHONS:
        return failed("python", where, "install Python 3.11 or 3.12 and run `make run` again")
    return ok("python", where)


def clock() -> Finding:
    """Checks whether the kernel trusts its clock, by which keys expire and days begin."""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if (told := _kernel_clock()) is None:
        return ok("clock", f"{now}; the kernel does not tell whether it is set by NTP")
    state, status = told
    if state == _TIME_ERROR or status & _STA_UNSYNC:
        return warning(
            "clock",
            f"{now}, not set by NTP",
            "start an NTP client (chrony, systemd-timesyncd), or see that the host has one",
        )
    return ok("clock", f"{now}, set by NTP")


def memory(settings: Settings) -> list[Finding]:
    """Checks free memory against what the built models need, and shared memory for tensors."""
    free_mib = cgroup.available_memory_bytes() // _MIB
    weights = sum(_folder_bytes(folder) for folder in _built_folders(settings))
    needed_mib = weights // _MIB + _BESIDE_ENGINES_MIB
    text = f"{free_mib} MiB free; the built models need about {needed_mib} MiB"
    findings = [ok("memory", text)]
    if free_mib < needed_mib and settings.triton.mode == "child":
        advice = "end other programs, or build fewer or smaller models"
        # A running appliance already uses its memory.
        findings = [warning("memory", text, f"{advice}; ignore this while the appliance runs")]
    shared = Path("/dev/shm")  # noqa: S108  # where Linux keeps POSIX shared memory
    if shared.is_dir():
        shared_mib = shutil.disk_usage(shared).total // _MIB
        text = f"{shared_mib} MiB in {shared}"
        findings.append(
            ok("shared memory", text)
            if shared_mib >= _LOW_SHARED_MEMORY_MIB
            else warning("shared memory", text, "start the container with `--shm-size 1g`")
        )
    return findings


def disk(settings: Settings) -> list[Finding]:
    """Checks the free space for the data folder and the model repository."""
    findings = []
    for subject, folder in (
        ("disk, data", settings.data_dir),
        ("disk, models", settings.triton.repository),
    ):
        there = _existing(folder.absolute())
        free_mib = shutil.disk_usage(there).free // _MIB
        text = f"{free_mib} MiB free for {folder}"
        if free_mib < _LEAST_DISK_MIB:
            findings.append(failed(subject, text, "make room: journals and engines are written"))
        elif free_mib < _LOW_DISK_MIB:
            findings.append(warning(subject, text, "make room before it is full"))
        else:
            findings.append(ok(subject, text))
    if settings.data_dir.exists() and not os.access(settings.data_dir, os.W_OK | os.X_OK):
        findings.append(
            failed(
                "data folder",
                f"{settings.data_dir} cannot be written by this user",
                "give it to the user who starts the server, or set ORCHESTRATOR_DATA_DIR",
            )
        )
    return findings


def gpu() -> list[Finding]:
    """Checks NVIDIA's GPUs and their driver, as `nvidia-smi` reports them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [ok("gpu", "none: engines run on the CPU")]
    try:
        done = _ask_nvidia(program)
    except (OSError, subprocess.TimeoutExpired):
        return [failed("gpu", "nvidia-smi gives no answer", "reload the driver, or reboot")]
    if done.returncode:
        said = (done.stdout or done.stderr).strip().splitlines()
        return [
            failed(
                "gpu",
                f"nvidia-smi: {said[0] if said else f'exit code {done.returncode}'}",
                "install the driver, or give the container its GPUs (`--gpus all`)",
            )
        ]
    return read_gpus(done.stdout)


def read_gpus(text: str) -> list[Finding]:
    """Returns one finding for each line of `nvidia-smi`."""
    findings = []
    for number, line in enumerate(text.strip().splitlines()):
        name, size, driver, capability = ([*line.split(", "), "?", "?", "?"])[:4]
        told = f"{name}, {size}, compute capability {capability}, driver {driver}"
        major = driver.split(".")[0]
        if major.isdigit() and int(major) < _LEAST_DRIVER:
            advice = f"TensorRT-LLM 1.2.1 is made for drivers from {_LEAST_DRIVER} on: update it"
            findings.append(warning(f"gpu {number}", told, advice))
        else:
            findings.append(ok(f"gpu {number}", told))
    return findings or [warning("gpu", "nvidia-smi lists none", "give the container its GPUs")]


def compute_capabilities() -> frozenset[str]:
    """Returns those of this machine's GPUs, such as `9.0` for Hopper; none if unknown."""
    if (program := shutil.which("nvidia-smi")) is None:
        return frozenset()
    try:
        done = _ask_nvidia(program)
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    lines = [] if done.returncode else done.stdout.strip().splitlines()
    return frozenset(line.split(", ")[-1] for line in lines)


def _ask_nvidia(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, f"--query-gpu={_NVIDIA_FIELDS}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=_NVIDIA_TIMEOUT_S,
        check=False,
    )


def _kernel_clock() -> tuple[int, int] | None:
    """Returns the state of the clock and its flags."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    return state, int.from_bytes(buffer.raw[_TIMEX_STATUS_AT : _TIMEX_STATUS_AT + 4], sys.byteorder)


def _built_folders(settings: Settings) -> Sequence[Path]:
    """Returns the newest version folder of every built model."""
    newest: dict[Path, Path] = {}
    for manifest in settings.triton.repository.glob("*/*/manifest.json"):
        version = manifest.parent
        best = newest.get(version.parent)
        if version.name.isdigit() and (best is None or int(best.name) < int(version.name)):
            newest[version.parent] = version
    return list(newest.values())


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _existing(path: Path) -> Path:
    """Returns `path`, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path
