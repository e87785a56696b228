"""Bytes that are in memory for callers: a bound for all of them, and one for each tenant."""

from __future__ import annotations

from orchestrator.core.errors import Overloaded, RateLimited

RETRY_S = 1.0
"""When to ask again: the end of the requests that hold the bytes is not known."""


class Shares:
    """Counts bytes by owner; beyond a bound it refuses. Not thread-safe: for the event loop."""

    def __init__(self, most: int, most_each: int) -> None:
        """At most `most` bytes in all and `most_each` of one owner."""
        self._most = most
        self._most_each = most_each
        self._total = 0
        self._held: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Bytes that are held now."""
        return self._total

    def held_by(self, owner: str) -> int:
        """Bytes that `owner` holds now."""
        return self._held.get(owner, 0)

    def lease(self, owner: str, size: int = 0) -> Lease:
        """Takes `size` bytes for `owner`. Raises: RateLimited, Overloaded."""
        lease = Lease(self, owner)
        lease.grow(size)
        return lease

    def _take(self, owner: str, size: int) -> None:
        held = self._held.get(owner, 0)
        if held + size > self._most_each:
            raise RateLimited(
                f"Requests of one tenant may hold {self._most_each} bytes at the same time; they"
                f" hold {held}, and this one needs {size} more.",
                retry_after_s=RETRY_S,
            )
        if self._total + size > self._most:
            raise Overloaded(
                f"Requests may hold {self._most} bytes at the same time; they hold {self._total},"
                f" and this one needs {size} more.",
                retry_after_s=RETRY_S,
            )
        self._held[owner] = held + size
        self._total += size

    def _release(self, owner: str, size: int) -> None:
        self._total -= size
        left = self._held.get(owner, 0) - size
        if left:
            self._held[owner] = left
        else:
            self._held.pop(owner, None)


class Lease:
    """Bytes of one owner, until `release`."""

    __slots__ = ("_owner", "_shares", "size")

    def __init__(self, shares: Shares, owner: str) -> None:
        self._shares = shares
        self._owner = owner
        self.size = 0

    def grow(self, size: int) -> None:
        """Takes `size` bytes more. Raises: RateLimited, Overloaded; what it has it keeps."""
        if size:
            self._shares._take(self._owner, size)  # noqa: SLF001  # one module, one thing
            self.size += size

    def resize(self, size: int) -> None:
        """Holds `size` bytes from now on. Raises: RateLimited, Overloaded, if that is more."""
        if size > self.size:
            self.grow(size - self.size)
        elif size < self.size:
            self._shares._release(self._owner, self.size - size)  # noqa: SLF001
            self.size = size

    def release(self) -> None:
        """Releases all of it. Idempotent."""
        self.resize(0)
