"""Limits the bytes held in memory for callers: in total, and for each tenant."""

from __future__ import annotations

from orchestrator.core.errors import Overloaded, RateLimited

RETRY_S = 1.0
"""Seconds until a retry: when the requests that hold the bytes will end is not known."""


class Shares:
    """Counts bytes by owner and refuses beyond a limit. Not thread-safe: for the event loop."""

    def __init__(self, most: int, most_each: int) -> None:
        """Allows at most `most` bytes in total and `most_each` for one owner."""
        self._most = most
        self._most_each = most_each
        self._total = 0
        self._held: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Bytes that all owners hold now."""
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
    """Bytes that one owner holds until `release`."""

    __slots__ = ("_owner", "_shares", "size")

    def __init__(self, shares: Shares, owner: str) -> None:
        self._shares = shares
        self._owner = owner
        self.size = 0

    def grow(self, size: int) -> None:
        """Takes `size` more bytes. Raises: RateLimited, Overloaded; then nothing changes."""
        if size:
            self._shares._take(self._owner, size)  # noqa: SLF001  # one module, one thing
            self.size += size

    def resize(self, size: int) -> None:
        """Grows or shrinks to `size` bytes. Raises: RateLimited, Overloaded, if that is more."""
        if size > self.size:
            self.grow(size - self.size)
        elif size < self.size:
            self._shares._release(self._owner, self.size - size)  # noqa: SLF001
            self.size = size

    def release(self) -> None:
        """Releases all bytes. Idempotent."""
        self.resize(0)
