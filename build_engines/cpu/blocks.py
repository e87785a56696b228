"""The key/value cache's blocks: reservation, sharing of equal prefixes, eviction.

A full block is identified by a digest over a salt and all tokens up to its end, so equal digests
mean equal prefixes of requests with equal salts. Tenants share the cache but not their salts: no
tenant finds blocks that another one computed. The digest is cryptographic, so that an attacker
cannot construct a prompt whose digest collides with another tenant's.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Digest = bytes


@dataclass(frozen=True, slots=True)
class Reservation:
    """The blocks of one sequence in order; the first `reused` already hold the prompt's prefix."""

    blocks: list[int]
    reused: int


def prefix_digests(tokens: Sequence[int], block_size: int, salt: int = 0) -> list[Digest]:
    """Returns a digest for every full block of `tokens`, each covering all tokens before it.

    `salt` is a number below 2**64; all digests depend on it.
    """
    values = np.asarray(tokens, dtype=np.int32)
    digests, previous = [], salt.to_bytes(8, "little")
    for begin in range(0, len(values) - block_size + 1, block_size):
        content = values[begin : begin + block_size].tobytes()
        previous = hashlib.blake2b(previous + content, digest_size=32).digest()
        digests.append(previous)
    return digests


class BlockPool:
    """Reference-counted blocks. A published block can still be found after its release, until it is
    needed: the least recently used one is evicted first.
    """

    def __init__(self, count: int, reuse: bool = True) -> None:
        self.count = count
        self._reuse = reuse
        self._free = list(range(count - 1, -1, -1))
        self._references = [0] * count
        self._digests: dict[int, Digest] = {}
        self._published: dict[Digest, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """The number of blocks that a reservation could take now."""
        return len(self._free) + len(self._idle)

    def reserve(self, digests: Sequence[Digest], count: int) -> Reservation | None:
        """Reserves `count` blocks, first the longest published prefix of `digests`; else None."""
        shared = self._matching(digests)
        idle = sum(1 for block in shared if self._references[block] == 0)
        if count - len(shared) > self.available - idle:
            return None
        for block in shared:
            self._references[block] += 1
            self._idle.pop(block, None)
        fresh = [self._take() for _ in range(count - len(shared))]
        return Reservation(shared + fresh, len(shared))

    def publish(self, block: int, digest: Digest) -> None:
        """Publishes a completely written block under `digest`."""
        if self._reuse and digest not in self._published and block not in self._digests:
            self._published[digest] = block
            self._digests[block] = digest

    def release(self, blocks: Sequence[int]) -> None:
        """Releases the blocks of one sequence."""
        # From the end, so that the tail of a prefix is evicted before the blocks in front of it.
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._digests:
                self._idle[block] = None
            else:
                self._free.append(block)

    def _matching(self, digests: Sequence[Digest]) -> list[int]:
        shared = []
        for digest in digests:
            block = self._published.get(digest)
            if block is None:
                break
            shared.append(block)
        return shared

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._published[self._digests.pop(block)]
        self._references[block] = 1
        return block
