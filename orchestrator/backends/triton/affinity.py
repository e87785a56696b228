"""Which server has the beginning of a prompt in its key/value cache, as far as one can know.

Engines keep what they computed of a prompt in blocks of tokens, and use a block again only where
everything before it is the same. So a block is named by a hash of itself and of all before it, and
what is remembered is the servers that were sent such a block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeAlias

LEAST_BLOCK_TOKENS = 64
"""Smaller blocks of an engine are taken together: more names say little more."""

Blocks: TypeAlias = Sequence[int]
"""The names of a prompt's blocks, from its beginning."""


def blocks_of(token_ids: Sequence[int], tokens_per_block: int, salt: int = 0) -> Blocks:
    """The names of the full blocks of a prompt; a prompt without any has the name of its whole.

    The same in every process. `tokens_per_block` is the engine's, or 0. All names depend on
    `salt`: where a prompt goes must not show who else has sent one that begins like it.
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
    """How much a server is liked for a prompt that begins with `block`; the highest wins.

    Rendezvous hashing: all processes agree without a word, and a server that is away changes
    nothing for the prompts of others.
    """
    return int.from_bytes(blake2b(f"{block} {server}".encode(), digest_size=8).digest())


class Affinity:
    """What one model's servers were sent, the latest `most_blocks` blocks of it.

    Servers are bits of a number, as they stand in the model's list.
    """

    def __init__(self, most_blocks: int) -> None:
        self._most_blocks = most_blocks
        self._servers: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._servers)

    def longest(self, blocks: Blocks, among: int) -> int:
        """Those of the servers `among` that know the longest beginning; 0 if none knows any."""
        found = 0
        for block in blocks:
            among &= self._servers.get(block, 0)
            if not among:
                break
            found = among
        return found

    def remember(self, blocks: Blocks, server: int) -> None:
        """`server` is sent the prompt of `blocks` now."""
        servers = self._servers
        # Backwards, so that the end of a prompt is forgotten before its beginning.
        for block in reversed(blocks):
            servers[block] = servers.get(block, 0) | server
            servers.move_to_end(block)
        while len(servers) > self._most_blocks:
            servers.popitem(last=False)
