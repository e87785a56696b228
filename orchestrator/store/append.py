"""Appends short lines to a file without releasing the interpreter's lock (GIL).

`os.write` releases the lock for a copy into the page cache that takes a microsecond. When other
threads wait for the lock, as those that sync journals do, getting it back takes fifty.
"""

from __future__ import annotations

import ctypes
import errno
import os

# Not `CDLL`, whose functions also release the lock.
_write = ctypes.PyDLL(None, use_errno=True).write
_write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_write.restype = ctypes.c_ssize_t


def append(fd: int, data: bytes) -> int:
    """Like `os.write`: returns the number of bytes written. Raises: OSError."""
    while (written := int(_write(fd, data, len(data)))) < 0:
        number = ctypes.get_errno()
        # EINTR: a signal interrupted the call; try again.
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return written
