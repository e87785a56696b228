"""What a trusted proxy reports of the request that it passes on: client, scheme and host.

Headers are read from the right, because the nearest proxy adds its value last. Values to the left
of the first untrusted hop may come from any client and are ignored. Sources: RFC 7239 for
`Forwarded`; the `X-Forwarded-` headers have no standard.
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
"""A `Host`: a name or an address, maybe with a port. Source: RFC 9110 7.2, without commas."""

_MAX_HOPS = 64
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
# An IPv6 address has brackets if a port can follow; some proxies leave them out elsewhere.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]+)")
# No commas or escapes within quotes: none of the parameters that are read can have them.
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = rf'({_WORD})=(?:({_WORD})|"([\t !#-+\--\[\]-~]*)")'
_ELEMENT = re.compile(rf"{_PAIR}(?:;{_PAIR})*")
_EACH_PAIR = re.compile(_PAIR)

Address = tuple[str, int]
"""The address and the port of a client; the port is 0 if it is not known."""


class Origin(NamedTuple):
    """Where a request comes from, as seen by this server or by a proxy before it."""

    client: Address | None
    """None if the proxy sent something that is not an address."""
    scheme: str | None = None
    """`http` or `https`; None if the proxy does not say."""
    host: bytes | None = None
    """Replaces `Host`; None if the proxy does not say."""


_UNKNOWN = Origin(None)


def origin(
    headers: Iterable[tuple[bytes, bytes]], peer: Address, proxies: TrustedProxies
) -> Origin:
    """Returns where a request of the trusted proxy `peer` comes from.

    The client is the first address from the right that is not a trusted proxy. If both kinds of
    header are present, a proxy may have passed one on unread: only what both agree on counts.
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
    # Often only one of them has the client's port.
    same_client = custom.client and standard.client and custom.client[0] == standard.client[0]
    return Origin(
        custom.client if same_client else None,
        custom.scheme if custom.scheme == standard.scheme else None,
        custom.host if custom.host == standard.host else None,
    )


def _client(
    lines: list[str] | None, read: Callable[[str], Origin], peer: Address, proxies: TrustedProxies
) -> Origin:
    """Returns the first hop from the right that is not trusted, or the leftmost."""
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
    """Returns the hop of one element of `Forwarded`; unknown if it is malformed."""
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
