"""The build machine: its GPUs, its memory, and whether TensorRT-LLM is installed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata

from build_engines.checkpoint.families import TargetName
from orchestrator import cgroup

#: The last version of TensorRT-LLM with engines: a release candidate of 1.3.
_LAST_ENGINES = (1, 3, 0, 20)
_QUERY = "name,memory.total,compute_cap,driver_version"
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `compute_capability` is (9, 0) for Hopper, for example."""

    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]
    driver: str


@dataclass(frozen=True, slots=True)
class Machine:
    """The build machine. `tensorrt_llm` is its version, empty where it is not installed."""

    gpus: tuple[Gpu, ...]
    memory_bytes: int
    available_bytes: int
    tensorrt_llm: str = ""

    @property
    def has_engines(self) -> bool:
        """Whether its TensorRT-LLM still has TensorRT engines."""
        return bool(self.tensorrt_llm) and _version(self.tensorrt_llm) <= _LAST_ENGINES

    @property
    def default_target(self) -> TargetName:
        """The best kind of engine that can be built and served here."""
        if not self.gpus or not self.tensorrt_llm:
            return "cpu"
        return "trtllm" if self.has_engines else "llmapi"


def this_machine() -> Machine:
    """Asks the driver, the kernel and the installed packages; respects a container's limits."""
    return Machine(
        gpus=_gpus(),
        memory_bytes=cgroup.total_memory_bytes(),
        available_bytes=cgroup.available_memory_bytes(),
        tensorrt_llm=_installed("tensorrt_llm"),
    )


def parse_gpus(listing: str) -> tuple[Gpu, ...]:
    """Parses the output of `nvidia-smi --query-gpu` as CSV without units."""
    gpus = []
    for line in listing.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(_QUERY.split(",")) or not fields[1].isdigit():
            continue
        major, _, minor = fields[2].partition(".")
        gpus.append(Gpu(fields[0], int(fields[1]) << 20, (int(major), int(minor or 0)), fields[3]))
    return tuple(gpus)


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        done = subprocess.run(
            [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        # Without an answer of the driver, the machine has no usable GPU.
        return ()
    return parse_gpus(done.stdout)


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _version(text: str) -> tuple[int, int, int, int]:
    """Parses `1.3.0rc20` as (1, 3, 0, 20); a final release is above all of its candidates."""
    numbers, _, candidate = text.split("+", maxsplit=1)[0].partition("rc")
    parts = [int(part) for part in numbers.split(".")[:3] if part.isdigit()]
    major, minor, patch = (*parts, 0, 0, 0)[:3]
    return major, minor, patch, int(candidate) if candidate.isdigit() else 1 << 30
