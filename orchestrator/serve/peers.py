"""Which peers are trusted proxies, believed about the client behind them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from orchestrator.core.addresses import address_of, network_of


class TrustedProxies:
    """The addresses of `server.trusted_proxies`."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        """`networks` are IP addresses and networks. Raises: ValueError for anything else."""
        self._networks = tuple([network_of(one) for one in networks])
        # The same proxies and clients come again and again.
        self.trusts = lru_cache(maxsize=4096)(self._trusts)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def _trusts(self, address: str) -> bool:
        """Whether `address`, which may be malformed, is that of a trusted proxy."""
        parsed = address_of(address)
        return parsed is not None and any(parsed in network for network in self._networks)


NO_PROXIES = TrustedProxies()
