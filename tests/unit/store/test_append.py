"""Lines at the end of a file, as `os.write` would write them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orchestrator.store.append import append


def test_all_bytes_are_written_zeros_too(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    assert append(fd, b"a\0b\n") == 4
    assert append(fd, b"") == 0
    assert append(fd, bytes(range(256)) * 64) == 16_384
    os.close(fd)
    assert path.read_bytes() == b"a\0b\n" + bytes(range(256)) * 64


def test_what_cannot_be_written_is_the_systems_error() -> None:
    with pytest.raises(OSError, match="No space left") as full:
        append(os.open("/dev/full", os.O_WRONLY), b"line\n")
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="Bad file descriptor"):
        append(-1, b"line\n")
