"""Reserves disk space for a file before anything is written to it."""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE = 0x01
"""Source: linux/falloc.h. The file keeps its length, so its readers see no padding."""
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
_fallocate.restype = ctypes.c_int


def reserve(fd: int, length: int) -> None:
    """Reserves space for the first `length` bytes of the file, in case the disk fills up.

    Where the file system cannot reserve, the same amount must be free now. Releases the
    interpreter's lock meanwhile. Raises: OSError (ENOSPC, EDQUOT, EFBIG …).
    """
    while _fallocate(fd, _KEEP_SIZE, 0, length) != 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number in _UNSUPPORTED:
            return _check_free(fd, length)
        raise OSError(number, os.strerror(number))
    return None


def _check_free(fd: int, length: int) -> None:
    disk = os.fstatvfs(fd)
    missing = length - os.fstat(fd).st_size
    if disk.f_bavail * disk.f_frsize < missing:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
