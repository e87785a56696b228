"""Guesses which server has the beginning of a prompt in its key/value cache.

Engines keep what they computed of a prompt in blocks of tokens, and reuse a block only if
everything before it is the same. So the name of a block is a hash of itself and of all before it,
and this module remembers which servers were sent each block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeAlias

LEAST_BLOCK_TOKENS = 64
"""Smaller blocks of an engine are grouped to this size: more names would add little."""

Blocks: TypeAlias = Sequence[int]
"""The names of a prompt's blocks, from its beginning."""


def blocks_of(token_ids: Sequence[int], tokens_per_block: int, salt: int = 0) -> Blocks:
    """The names of the full blocks of a prompt; a shorter prompt is one block.

    The names are the same in every process. `tokens_per_block` is the engine's, or 0. All names
    depend on `salt`: the choice of a server must not reveal who else sent a prompt that begins
    like this one.
    """
    whole, engines = tuple(token_ids), tokens_per_block or LEAST_BLOCK_TOKENS
    size = -(-LEAST_BLOCK_TOKENS // engines) * engines
    if len(whole) < size:
        return (hash((salt, whole)),)
    names, name = [], salt
    for start in range(0, len(whole) - size + 1, size):
        name = hash((name, whole[start : start + size]))
        names.append(name)
    return names


def preference(block: int, server: str) -> int:
    """The score of a server for a prompt that begins with `block`; the highest score wins.

    Rendezvous hashing: all processes agree without communication, and when a server is away, only
    its own prompts move.
    """
    return int.from_bytes(blake2b(f"{block} {server}".encode(), digest_size=8).digest())


class Affinity:
    """Remembers the latest `most_blocks` blocks that one model's servers were sent.

    A set of servers is a bit mask, in the order of the model's list.
    """

    def __init__(self, most_blocks: int) -> None:
        self._most_blocks = most_blocks
        self._servers: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._servers)

    def longest(self, blocks: Blocks, among: int) -> int:
        """The servers of `among` that know the longest beginning; 0 if none knows any block."""
        found = 0
        for block in blocks:
            among &= self._servers.get(block, 0)
            if not among:
                break
            found = among
        return found

    def remember(self, blocks: Blocks, server: int) -> None:
        """Records that `server` is sent the prompt of `blocks` now."""
        servers = self._servers
        # Backwards, so that the end of a prompt is forgotten before its beginning.
        for block in reversed(blocks):
            servers[block] = servers.get(block, 0) | server
            servers.move_to_end(block)
        while len(servers) > self._most_blocks:
            servers.popitem(last=False)
