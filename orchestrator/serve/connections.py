"""The connections of one worker: how many there may be, and how long each may wait for its client.

One sweep a second looks at every connection, so no request sets a timer and limits take effect up
to two seconds late. If all places are taken, a new connection replaces one that waits for its
client; it is refused only if every place is busy.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from orchestrator.settings import ServerSettings
from orchestrator.telemetry import specs
from orchestrator.telemetry.instruments import Counter, Registry

logger = logging.getLogger(__name__)

WaitsFor = Literal["first_byte", "head", "next_request", "body", "linger", "nothing"]
"""What a connection waits for from its client; `linger`: the rest of a body that it drops."""

KEPT_FOR_LOOPBACK = 8
"""Places reserved for clients of this machine, so that its operator can always connect."""
_KEPT_SHARE = 8
"""If there are few places, one of this many is reserved."""
_SWEEP_S = 1.0
_SWEPT_AT_ONCE = 500
_LOOKED_AT = 32
"""Max connections that are looked at to find one to close."""
_STALLED_S = 2.0
"""A body or a reply that has not moved for so long may be closed for a new connection."""
_NEVER = 9
"""The rank of a connection that keeps its place."""
_LOG_EVERY_S = 10.0
_BYTES_ACKED_AT = 120
"""Source: Linux, `tcpi_bytes_acked` in `struct tcp_info`."""


class Guarded(Protocol):
    """An asyncio protocol that serves one client."""

    place: Place | None

    def waits_for(self) -> tuple[WaitsFor, Hashable]:
        """Returns what it waits for now, and a value that changes on the client's progress."""

    def give_up(self, waited_for: WaitsFor) -> None:
        """Ends the connection: its client has taken too long."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for the connections of one worker; times are in seconds."""

    most: int
    most_per_peer: int
    first_byte_s: float
    head_s: float
    next_request_s: float
    linger_s: float
    send_s: float
    send_rate_bytes: int

    @classmethod
    def of(cls, settings: ServerSettings, most: int) -> Limits:
        """Returns the limits from `settings` if there is room for `most` connections."""
        return cls(
            most=most,
            most_per_peer=settings.max_connections_per_peer or max(1, most // 2),
            first_byte_s=settings.first_byte_timeout_s,
            head_s=settings.head_timeout_s,
            next_request_s=settings.keep_alive_s,
            linger_s=settings.linger_s,
            send_s=settings.send_timeout_s,
            send_rate_bytes=settings.send_rate_bytes,
        )


class Place:
    """One open connection. `release` it when the connection is closed."""

    __slots__ = (
        "_connections",
        "peer",
        "progress",
        "protocol",
        "since",
        "sock",
        "taken",
        "transport",
        "unsent_since",
        "waits_for",
    )

    def __init__(self, connections: Connections, peer: str, now: float) -> None:
        self._connections = connections
        self.peer = peer
        self.sock: socket.socket | None = None
        self.transport: asyncio.Transport | None = None
        self.protocol: Guarded | None = None
        self.waits_for: WaitsFor = "first_byte"
        self.progress: Hashable = None
        self.since = now
        self.unsent_since: float | None = None
        self.taken = 0

    def occupy(self, protocol: Guarded, transport: asyncio.Transport) -> None:
        """Records that `protocol` works on `transport` from now on."""
        self.protocol, self.transport = protocol, transport
        protocol.place = self

    def release(self) -> None:
        """Frees the place: the connection is closed. Idempotent."""
        self._connections.release(self)


class Connections:
    """The places of one worker. Belongs to one event loop; `start` it, and `stop` it."""

    def __init__(
        self,
        limits: Limits,
        registry: Registry | None = None,
        *,
        is_proxy: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`is_proxy` says whether an address is a trusted proxy, which has no limit per peer."""
        registry = registry or Registry()
        self._limits = limits
        self._is_proxy = is_proxy
        self._timeouts: dict[WaitsFor, float] = {
            "first_byte": limits.first_byte_s,
            "head": limits.head_s,
            "next_request": limits.next_request_s,
            "linger": limits.linger_s,
        }
        self._all: dict[Place, None] = {}
        self._by_peer: dict[str, dict[Place, None]] = {}
        self._refused: Counter = registry.counter(specs.CONNECTIONS_REFUSED)
        self._closed: Counter = registry.counter(specs.CONNECTIONS_CLOSED)
        self._untold = 0
        self._told_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.on_change: Callable[[int], None] | None = None
        """Called with the number of open connections when it changes, and once a second."""
        registry.observe(specs.CONNECTIONS, lambda: [((), float(len(self._all)))])

    def __len__(self) -> int:
        return len(self._all)

    def start(self) -> None:
        """Starts to enforce the limits."""
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)

    def stop(self) -> None:
        """Stops enforcing the limits."""
        if self._timer is not None:
            self._timer.cancel()

    def admit(self, address: str) -> Place | None:
        """Returns a place for a new connection from `address`; `None` if there is none."""
        peer, limits = _peer(address), self._limits
        own = self._by_peer.get(peer, {})
        is_bound = len(own) >= limits.most_per_peer and not self._is_proxy(address)
        if is_bound and not self._make_room(own):
            self._refuse("peer", peer)
            return None
        most = limits.most
        if not _is_loopback(peer):
            most -= min(KEPT_FOR_LOOPBACK, most // _KEPT_SHARE)
        if len(self._all) >= most and not self._make_room(self._all):
            self._refuse("all", peer)
            return None
        place = Place(self, peer, self._loop.time())
        self._all[place] = None
        self._by_peer.setdefault(peer, {})[place] = None
        self._tell()
        return place

    def release(self, place: Place) -> None:
        """Frees `place`. Idempotent."""
        if self._all.pop(place, self) is self:
            return
        own = self._by_peer[place.peer]
        del own[place]
        if not own:
            del self._by_peer[place.peer]
        self._tell()

    def out_of_descriptors(self) -> None:
        """No descriptor was free for a connection: closes an open one, if it can."""
        self._make_room(self._all)
        self._refuse("descriptors", "")

    def _refuse(self, bound: Literal["all", "peer", "descriptors"], peer: str) -> None:
        """Counts a refusal, and logs it with those before it, at most every ten seconds."""
        self._refused.add(1, bound)
        self._untold += 1
        now = self._loop.time()
        if now - self._told_at >= _LOG_EVERY_S:
            logger.warning(
                "no place for %d new connection(s), the last from %s; %d are open, at most %d and"
                " %d for each peer (bound: %s)",
                self._untold,
                peer or "an unknown peer",
                len(self._all),
                self._limits.most,
                self._limits.most_per_peer,
                bound,
            )
            self._told_at, self._untold = now, 0

    def _make_room(self, places: dict[Place, None]) -> bool:
        """Closes the connection of the lowest rank among the first of `places`, if it may.

        Connections that stay move to the end, so that in time all are looked at.
        """
        now = self._loop.time()
        best, best_rank = None, _NEVER
        for place in list(islice(places, _LOOKED_AT)):
            rank = self._rank(place, now)
            if rank < best_rank:
                best, best_rank = place, rank
            if rank == 0:
                break
            del places[place]
            places[place] = None
        if best is None:
            return False
        self._end(best, "place")
        best.release()
        return True

    def _rank(self, place: Place, now: float) -> int:
        """Returns 0 for what to close first: a connection without a request, or after its reply."""
        if place.protocol is None:
            return _NEVER
        waits_for, progress = place.protocol.waits_for()
        if waits_for in ("first_byte", "head", "linger"):
            return 0
        if waits_for == "next_request":
            return 1
        stalled_since = place.unsent_since
        if waits_for == "body" and (waits_for, progress) == (place.waits_for, place.progress):
            stalled_since = place.since
        return 2 if stalled_since is not None and now - stalled_since >= _STALLED_S else _NEVER

    def _tell(self) -> None:
        if self.on_change is not None:
            self.on_change(len(self._all))

    def _sweep(self) -> None:
        self._tell()
        self._sweep_some(list(self._all), self._loop.time() + _SWEEP_S)

    def _sweep_some(self, places: list[Place], next_at: float) -> None:
        """Looks at some of `places`, and at the others after the loop has done other work."""
        now = self._loop.time()
        for place in places[:_SWEPT_AT_ONCE]:
            self._look(place, now)
        rest = places[_SWEPT_AT_ONCE:]
        if rest:
            self._timer = self._loop.call_later(0, self._sweep_some, rest, next_at)
        else:
            self._timer = self._loop.call_at(next_at, self._sweep)

    def _look(self, place: Place, now: float) -> None:
        protocol, transport = place.protocol, place.transport
        if protocol is None or transport is None or place not in self._all:
            return
        if self._is_stuck(place, transport, now):
            self._end(place, "reader")
            return
        if transport.is_closing():
            return
        waits_for, progress = protocol.waits_for()
        if waits_for != place.waits_for or progress != place.progress:
            place.waits_for, place.progress = waits_for, progress
            place.since = now if waits_for != "first_byte" else place.since
            return
        timeout_s = self._timeouts.get(waits_for)
        if timeout_s is not None and now - place.since >= timeout_s:
            self._closed.add(1, waits_for)
            protocol.give_up(waits_for)

    def _is_stuck(self, place: Place, transport: asyncio.Transport, now: float) -> bool:
        """Whether unsent bytes have waited too long for the client to read them."""
        unsent = transport.get_write_buffer_size()
        if not unsent:
            place.unsent_since = None
            return False
        limits, taken = self._limits, _bytes_taken(place.sock, unsent)
        least = max(1, int(limits.send_rate_bytes * limits.send_s))
        if place.unsent_since is None or taken - place.taken >= least:
            place.unsent_since, place.taken = now, taken
        return now - place.unsent_since >= limits.send_s

    def _end(self, place: Place, waited_for: str) -> None:
        """Closes at once; unsent bytes are dropped."""
        self._closed.add(1, waited_for)
        if place.transport is not None:
            place.transport.abort()


def _bytes_taken(sock: socket.socket | None, unsent: int) -> int:
    """Returns a number that grows as the client reads: the bytes that its TCP confirmed."""
    try:
        assert sock is not None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_AT + 8)
        taken: int = struct.unpack_from("=Q", info, _BYTES_ACKED_AT)[0]
    except (OSError, struct.error):
        # No TCP, or a kernel that does not count them. The unsent bytes shrink as well.
        return -unsent
    return taken


def _peer(address: str) -> str:
    """Returns the peer whose share `address` counts for: itself, or its /64 network for IPv6."""
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_loopback:
        return str(parsed)
    return f"{ipaddress.IPv6Address(int(parsed) >> 64 << 64)}/64"


def _is_loopback(peer: str) -> bool:
    return peer.startswith("127.") or peer == "::1"
