"""How many files and sockets this process may open, and how many of them clients may use."""

from __future__ import annotations

import logging
import os
import resource

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 10_000
"""The default max, whatever the number of descriptors: each connection also takes memory."""
_LEAST_CONNECTIONS = 16
_LEAST_KEPT, _MAX_KEPT, _KEPT_SHARE = 48, 320, 4
"""Descriptors reserved for what a worker opens later: segments of journals (256 after a long
outage of the store), connections to store, Triton and Redis, sockets of scrapes."""
_UNLIMITED = 1 << 20


def raise_limit() -> None:
    """Raises the soft limit of open files to the hard one, for this process and its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            # Some sandboxes forbid it; the soft limit still works.
            logger.warning("the limit of open files stays at %d: %s", soft, error)


def most_connections(wanted: int) -> int:
    """Returns how many client connections fit beside what is open now and is opened later.

    `wanted` is the setting; 0 means as many as fit, up to `MAX_CONNECTIONS`.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _UNLIMITED if limit == resource.RLIM_INFINITY else limit
    free = limit - open_files()
    kept = min(_MAX_KEPT, max(_LEAST_KEPT, free // _KEPT_SHARE))
    room = max(_LEAST_CONNECTIONS, free - kept)
    if wanted > room:
        logger.warning(
            "server.max_connections is %d, and the limit of %d open files leaves room for %d:"
            " raise RLIMIT_NOFILE (`ulimit -n`)",
            wanted,
            limit,
            room,
        )
    return min(wanted or MAX_CONNECTIONS, room)


def open_files() -> int:
    """Returns how many descriptors this process has open."""
    # The listing itself takes one.
    return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208  # a count, no paths
