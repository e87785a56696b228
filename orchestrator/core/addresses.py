"""IP addresses and networks. An IPv4 address that is written as IPv6 counts as IPv4."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LONGEST = 64
"""Max characters of an IPv6 address with its zone."""
_MAPPED = IPv6Network("::ffff:0:0/96")


def address_of(text: str) -> Address | None:
    """Parses `text` as an address, without its zone; None if it is not an address."""
    # Callers must not be able to fill the cache with long texts.
    return _address_of(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=4096)
def _address_of(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def network_of(text: str) -> Network:
    """Parses `text` as a network: one address, or the first address and a prefix length.

    Raises: ValueError, also where bits are set beyond the prefix.
    """
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        first = network.network_address.ipv4_mapped
        assert first is not None
        return IPv4Network((first, network.prefixlen - _MAPPED.prefixlen))
    return network
