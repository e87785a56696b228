"""Short lines to the end of a file, without giving the interpreter's lock away.

`os.write` gives it away for a copy into the page cache that takes a microsecond. When threads wait
for the lock, as those that bring journals to the disk do, getting it back takes fifty.
"""

from __future__ import annotations

import ctypes
import errno
import os

# Unlike `CDLL`, whose functions give the lock away, too.
_write = ctypes.PyDLL(None, use_errno=True).write
_write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_write.restype = ctypes.c_ssize_t


def append(fd: int, data: bytes) -> int:
    """As `os.write`: the number of bytes written. Raises: OSError."""
    while (written := int(_write(fd, data, len(data)))) < 0:
        number = ctypes.get_errno()
        # A signal came in between.
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return written
