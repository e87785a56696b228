"""Finds in Triton's output why it did not start or load a model, as one sentence."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable

MAX_REASON = 300

_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"version `(?P<name>GLIBC_[\d.]+)' not found",
        (
            "Triton needs {name} of the C library, and this machine has glibc {glibc};"
            " a Linux with glibc 2.35 or newer is needed"
        ),
    ),
    (
        r"version `(?P<name>(?:GLIBCXX|CXXABI)_[\d.]+)' not found",
        (
            "Triton needs {name} of libstdc++, and this machine's libstdc++ is older;"
            " install a newer libstdc++6"
        ),
    ),
    (
        r"error while loading shared libraries: (?P<name>[^\s:]+): cannot open shared object file",
        "Triton needs the library {name}, which this machine lacks",
    ),
    (
        r"(?P<name>libpython[\w.]+): cannot open shared object file",
        "Triton's Python backend needs the library {name}, which this machine lacks",
    ),
    (
        r"(?:Address already in use|already in use)",
        "Triton cannot listen: {line}",
    ),
    (
        (
            r"No space left on device.*(?:shm|shared memory)"
            r"|(?:shm|[Ss]hared memory).*No space left on device"
            r"|[Uu]nable to (?:create|initialize) shared memory|Failed to .*shared memory"
        ),
        "the shared memory file system /dev/shm is full or too small for Triton",
    ),
    (r"No space left on device", "the disk is full: {line}"),
    (r"Cannot allocate memory|std::bad_alloc", "there is not enough memory for Triton: {line}"),
    (r"cannot execute (?P<name>\S+): (?P<why>.*)", "{name} cannot be executed: {why}"),
)


def cause(lines: Iterable[str]) -> str | None:
    """Returns a sentence for the first known cause in `lines` of output, or `None`."""
    for line in lines:
        for pattern, sentence in _CAUSES:
            if match := re.search(pattern, line):
                return sentence.format(
                    **match.groupdict(),
                    glibc=platform.libc_ver()[1] or "unknown",
                    line=_short(line),
                )
    return None


def exit_reason(code: int, lines: Iterable[str]) -> str:
    """Returns why a Triton ended without being asked to. `lines` are the last that it wrote."""
    lines = list(lines)
    if (known := cause(lines)) is not None:
        return known
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    last = [line for line in lines if line.strip()][-1:]
    said = f": {_short(last[0])}" if last else ""
    return f"Triton {how}{said}"


def _short(line: str) -> str:
    """Returns Triton's message without severity, time, thread and place in its source."""
    text = re.sub(r"^[IWEF]\d{4} [\d:.]+ \d+ \S+\] ?", "", line).strip().strip('"')
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"
