"""What a trusted proxy says of the request that it passes on: client, scheme and host.

Headers are read from the right: what stands there was added last, by the proxy that is nearest.
What stands to the left of the first hop that is not trusted may come from any client, and is
not looked at. Sources: RFC 7239 for `Forwarded`; the `X-Forwarded-` headers have no standard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from orchestrator.core.addresses import address_of
from orchestrator.serve.peers import TrustedProxies

FORWARDED = b"forwarded"
FOR = b"x-forwarded-for"
PROTO = b"x-forwarded-proto"
FOR_HOST = b"x-forwarded-host"
HEADERS = frozenset({FORWARDED, FOR, PROTO, FOR_HOST})

HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]{0,5})?")
"""A `Host`: a name or an address, and maybe a port. Source: RFC 9110 7.2, without commas."""

_MAX_HOPS = 64
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
# An address of IPv6 has brackets where a port can follow; some proxies leave them out elsewhere.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]+)")
# Without commas and escapes within quotes: none of the parameters that are read can have them.
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = rf'({_WORD})=(?:({_WORD})|"([\t !#-+\--\[\]-~]*)")'
_ELEMENT = re.compile(rf"{_PAIR}(?:;{_PAIR})*")
_EACH_PAIR = re.compile(_PAIR)

Address = tuple[str, int]
"""Of a client, with its port; 0 where it is not known."""


class Origin(NamedTuple):
    """Where a request comes from, to this server or to a proxy before it."""

    client: Address | None
    """None where the proxy says something that is no address."""
    scheme: str | None = None
    """`http` or `https`; None where nothing is said."""
    host: bytes | None = None
    """In the place of `Host`; None where nothing is said."""


_UNKNOWN = Origin(None)


def origin(
    headers: Iterable[tuple[bytes, bytes]], peer: Address, proxies: TrustedProxies
) -> Origin:
    """Where a request of the trusted proxy `peer` comes from.

    The client is the first address from the right that is no trusted proxy. Where both kinds of
    header are there, a proxy may pass one of them on unread: only what both say counts.
    """
    given: dict[bytes, list[str]] = {}
    for name, value in headers:
        if name in HEADERS:
            given.setdefault(name, []).append(value.decode("latin-1"))
    custom = Origin(
        _client(given.get(FOR), _hop_of_node, peer, proxies).client,
        _scheme(_last(given.get(PROTO))),
        _host(_last(given.get(FOR_HOST))),
    )
    if FORWARDED not in given:
        return custom
    standard = _client(given[FORWARDED], _hop_of_element, peer, proxies)
    return _agreed(custom, standard) if FOR in given else standard


def _agreed(custom: Origin, standard: Origin) -> Origin:
    # The port of the client is often in one of them only.
    same_client = custom.client and standard.client and custom.client[0] == standard.client[0]
    return Origin(
        custom.client if same_client else None,
        custom.scheme if custom.scheme == standard.scheme else None,
        custom.host if custom.host == standard.host else None,
    )


def _client(
    lines: list[str] | None, read: Callable[[str], Origin], peer: Address, proxies: TrustedProxies
) -> Origin:
    """The first hop from the right that is not trusted, or the leftmost."""
    hop = Origin(peer)
    for count, text in enumerate(_from_the_right(lines)):
        if count == _MAX_HOPS:
            return _UNKNOWN
        hop = read(text)
        if hop.client is None or not proxies.trusts(hop.client[0]):
            return hop
    return hop


def _from_the_right(lines: list[str] | None) -> Iterator[str]:
    for line in reversed(lines or ()):
        rest, comma = line, ","
        while comma:
            rest, comma, last = rest.rpartition(",")
            yield last.strip(" \t")


def _hop_of_node(text: str) -> Origin:
    return Origin(_address(text))


def _hop_of_element(text: str) -> Origin:
    """The hop of one element of `Forwarded`; unknown for whatever is not well formed."""
    if _ELEMENT.fullmatch(text) is None:
        return _UNKNOWN
    pairs = [(name.lower(), token or quoted) for name, token, quoted in _EACH_PAIR.findall(text)]
    said = dict(pairs)
    if len(said) != len(pairs):
        return _UNKNOWN
    return Origin(
        _address(said.get("for", "")), _scheme(said.get("proto")), _host(said.get("host"))
    )


def _address(text: str) -> Address | None:
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    bracketed, dotted, port, bare = match.groups()
    address = address_of(bracketed or dotted or bare)
    if address is None or (bracketed and ":" not in bracketed) or int(port or 0) > 65_535:
        return None
    return str(address), int(port or 0)


def _scheme(text: str | None) -> str | None:
    return _SCHEMES.get((text or "").lower())


def _host(text: str | None) -> bytes | None:
    host = (text or "").encode("latin-1")
    return host if host and HOST.fullmatch(host) else None


def _last(lines: list[str] | None) -> str | None:
    return next(_from_the_right(lines), None)
