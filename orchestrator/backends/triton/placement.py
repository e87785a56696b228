"""Chooses the Triton server for each request: one of the replicas of its model.

A model has one replica on each of its servers. A replica gets requests while it is `ready`. If one
of several fails, it is ejected: it gets no requests for a pause that doubles each time, and returns
after a successful try.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.backends.triton.affinity import Affinity, Blocks, blocks_of, preference
from orchestrator.contract.catalogue import Catalogue
from orchestrator.core.errors import ModelUnavailable, Overloaded
from orchestrator.core.event_source import noop
from orchestrator.settings import Settings, TritonSettings
from orchestrator.telemetry import current_call, names
from orchestrator.triton.client import Timeouts, TritonClient
from orchestrator.triton.endpoint import DEFAULT, connections, endpoint_of, servers_of

logger = logging.getLogger(__name__)

_STARTED_OVER = "request %s has no token yet and moves from triton `%s` to `%s`"


@dataclass(frozen=True, slots=True)
class Server:
    """A Triton server. `name` is its name in the settings."""

    name: str
    client: TritonClient


@dataclass(frozen=True, slots=True)
class Rules:
    """How replicas of one model are chosen and ejected."""

    first_s: float = 1.0
    most_s: float = 30.0
    margin: int = 4
    most_blocks: int = 65_536
    wait_s: float = 0.0
    """How long calls wait for a lost model, in seconds; with 0 no call waits."""


class Replica:
    """One model on one server."""

    def __init__(
        self, model: str, server: Server, rules: Rules | None, monotonic: Callable[[], float]
    ) -> None:
        """Without `rules` it is the only replica: it has no pause after an ejection."""
        self.model = model
        self.server = server
        self.ready = False
        self.tested = ""
        """What the self-test checked successfully after the last load."""
        self.fault = ""
        """What the self-test found wrong."""
        self.test_again_at = 0.0
        """A replica that failed its self-test stays out until then, by `time.monotonic()`."""
        self.term = 0
        """Number of its admissions, so that a late error of an earlier one does not eject it."""
        self.lost_at: float | None = None
        """When it stopped being ready, by `monotonic`; None while it is ready or never was."""
        self.on_admit: Callable[[], None] = noop
        self.on_doubt: Callable[[], None] = noop
        """Called to have it checked soon."""
        self._rules = rules
        self._monotonic = monotonic
        self._failures = 0
        self._admitted_at = self._due_at = monotonic()

    @property
    def name(self) -> str:
        """The name of its server."""
        return self.server.name

    @property
    def client(self) -> TritonClient:
        """The connection to its server."""
        return self.server.client

    @property
    def in_flight(self) -> int:
        """Number of requests of this process in flight on its server, for any model."""
        return self.server.client.in_flight

    @property
    def is_due(self) -> bool:
        """Whether it may be tried now."""
        return self.ready or self._monotonic() >= self._due_at

    def admit(self) -> None:
        """Marks it as ready: it was tried and gets requests from now on."""
        self.ready, self.fault, self.lost_at = True, "", None
        self.term += 1
        self._admitted_at = self._monotonic()
        self.on_admit()

    def eject(self) -> None:
        """Marks it as not ready: it gets no requests, and is not tried during its pause."""
        if self.ready:
            logger.info("model %s on triton `%s` is down", self.model, self.server.name)
            self.lost_at = self._monotonic()
            # A replica that stayed ready longer than the longest pause starts with short pauses.
            if self._rules is None or self._monotonic() - self._admitted_at > self._rules.most_s:
                self._failures = 0
        # It returns with a new load, which may pass the self-test that this one failed.
        self.ready, self.test_again_at = False, 0.0
        if self._rules is not None:
            pause_s = min(self._rules.first_s * 2**self._failures, self._rules.most_s)
            self._due_at = self._monotonic() + pause_s
            self._failures = min(self._failures + 1, 32)


class Placement:
    """A model's replicas."""

    def __init__(
        self,
        model: str,
        servers: Sequence[Server],
        rules: Rules | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        rules = rules or Rules()
        alone = len(servers) == 1
        own = None if alone else rules
        self.replicas = tuple(Replica(model, server, own, monotonic) for server in servers)
        self._margin = rules.margin
        self._affinity = None if alone else Affinity(rules.most_blocks)
        self._wait_s = rules.wait_s
        self._monotonic = monotonic
        self._waiters: set[asyncio.Future[None]] = set()
        for replica in self.replicas:
            replica.on_admit = self._tell_waiters

    @property
    def ready(self) -> bool:
        """Whether any replica is ready."""
        return any(replica.ready for replica in self.replicas)

    @property
    def term(self) -> int:
        """Number of admissions of all its replicas."""
        return sum(replica.term for replica in self.replicas)

    @property
    def awaited_s(self) -> float:
        """How much longer calls wait for it, in seconds; 0 where they do not wait.

        Calls wait for a model that was served before and has not failed a self-test since.
        """
        lost = [one.lost_at for one in self.replicas if one.lost_at is not None and not one.fault]
        if self.ready or not lost:
            return 0.0
        return max(0.0, max(lost) + self._wait_s - self._monotonic())

    @property
    def may_be_awaited(self) -> bool:
        """Whether the settings let calls wait for it when it is lost."""
        return self._wait_s > 0

    @property
    def is_waited_for(self) -> bool:
        """Whether a call waits for it now."""
        return bool(self._waiters)

    async def admission(self, timeout_s: float) -> None:
        """Returns when a replica is admitted, or after `timeout_s`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    def doubt(self) -> None:
        """Has all replicas checked soon: a call has met an outage that was not noticed yet."""
        for replica in self.replicas:
            replica.on_doubt()

    def _tell_waiters(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    @property
    def is_alone(self) -> bool:
        """Whether the model has one replica only, so that there is no choice."""
        return self._affinity is None

    def blocks(self, token_ids: Sequence[int], tokens_per_block: int, salt: int = 0) -> Blocks:
        """The blocks of a prompt, for `choose`; empty where there is only one replica.

        With another `salt` the same prompt has other blocks.
        """
        return () if self.is_alone else blocks_of(token_ids, tokens_per_block, salt)

    def choose(self, blocks: Blocks = (), tried: Collection[Replica] = ()) -> Replica | None:
        """The replica for a prompt with `blocks`; None if all have been `tried`.

        Chooses the one that knows the longest beginning of the prompt, unless it has over
        `affinity_margin` more requests in flight than the idlest. If no replica is ready and none
        was tried, returns the first: its error then says what is wrong.
        """
        if self._affinity is None:
            return None if tried else self.replicas[0]
        free = [one for one in self.replicas if one.ready and one not in tried]
        if not free:
            return None if tried else self.replicas[0]
        busy = min(one.in_flight for one in free) + (self._margin if blocks else 0)
        near = [one for one in free if one.in_flight <= busy]
        chosen = self._best(near, blocks, self._affinity) if blocks else random.choice(near)
        self._affinity.remember(blocks, self._bits([chosen]))
        return chosen

    def lost(self, replica: Replica, term: int) -> None:
        """Ejects `replica`: a request that it got in its `term` failed, as it is unreachable."""
        if not self.is_alone and replica.ready and replica.term == term:
            replica.eject()

    def _best(self, near: Sequence[Replica], blocks: Blocks, affinity: Affinity) -> Replica:
        found = affinity.longest(blocks, self._bits(near))
        if not found:
            return max(near, key=lambda one: preference(blocks[0], one.name))
        known = [one for one in near if found & self._bits([one])]
        return min(known, key=lambda one: one.in_flight)

    def _bits(self, replicas: Sequence[Replica]) -> int:
        return sum(1 << self.replicas.index(one) for one in replicas)


class Failover:
    """The replica that serves one request, and those that it tried before."""

    def __init__(
        self, placement: Placement, blocks: Blocks, request_id: str, timeout_s: float
    ) -> None:
        """The request may move to another replica for `timeout_s`."""
        self._placement = placement
        self._blocks = blocks
        self._request_id = request_id
        self._until = time.monotonic() + timeout_s
        self._tried: list[Replica] = []
        chosen = placement.choose(blocks)
        assert chosen is not None
        self._enter(chosen)

    @property
    def left_s(self) -> float:
        """How long the first token may still take, in seconds."""
        return max(0.0, self._until - time.monotonic())

    def failed(self, error: ModelUnavailable) -> None:
        """Reports that the request failed on the current replica with `error`."""
        if not isinstance(error, Overloaded):
            self._placement.lost(self.replica, self._term)

    def moves(self) -> bool:
        """Moves the request to another replica. False if there is none, or no time."""
        self._tried.append(self.replica)
        other = self._placement.choose(self._blocks, self._tried) if self.left_s else None
        if other is None:
            return False
        before, after = self.replica.name, other.name
        logger.warning(_STARTED_OVER, self._request_id, before, after)
        self._enter(other)
        return True

    def _enter(self, replica: Replica) -> None:
        self.replica = replica
        self._term = replica.term
        if not self._placement.is_alone:
            _note_server(replica.server)


class Placements:
    """All servers, and the placement of every model on them."""

    def __init__(
        self,
        servers: Sequence[Server],
        placed: Mapping[str, Sequence[str]] | None = None,
        rules: Rules | None = None,
    ) -> None:
        """`placed` maps Triton's name of a model to server names; other models run on the first.

        This object owns the servers from now on and closes them.
        """
        self.servers = tuple(servers)
        self._known = {server.name: server for server in servers}
        self._placed = dict(placed or {})
        self._rules = rules
        self._placements: dict[str, Placement] = {}

    def of(self, model: str) -> Placement:
        """The placement of the model that Triton calls `model`."""
        if model not in self._placements:
            names = self._placed.get(model) or [self.servers[0].name]
            servers = [self._known[name] for name in names]
            self._placements[model] = Placement(model, servers, self._rules)
        return self._placements[model]

    def last_answer_at(self, model: str | None = None) -> float:
        """When `model` (or any model) last answered, by `time.monotonic()`; 0 if never."""
        return max(server.client.last_answer_at(model) for server in self.servers)

    async def close(self) -> None:
        """Ends all requests in flight, and closes the connections."""
        await asyncio.gather(*(server.client.close() for server in self.servers))


def single(client: TritonClient) -> Placements:
    """Places every model on one Triton."""
    return Placements([Server(DEFAULT, client)])


def open_placements(settings: Settings, catalogue: Catalogue) -> Placements:
    """Opens the placements of settings and catalogue. Raises: CatalogueError."""
    triton, workers = settings.triton, settings.server.workers
    timeouts = Timeouts(
        request_s=triton.request_timeout_s,
        cancel_drain_s=triton.cancel_drain_s,
        # Half of the probe's timeout, so that a probe that has to wait for it is still in time.
        silence_s=triton.probe_timeout_s / 2,
    )
    servers = [
        Server(name, TritonClient(endpoint_of(connection), timeouts, processes=workers))
        for name, connection in connections(catalogue, settings).items()
    ]
    placed = {model.name: servers_of(model) for model in catalogue.models}
    return Placements(servers, placed, _rules(triton))


def _rules(triton: TritonSettings) -> Rules:
    return Rules(
        first_s=triton.eject_first_s,
        most_s=triton.eject_most_s,
        margin=triton.affinity_margin,
        most_blocks=triton.affinity_blocks,
        wait_s=triton.wait_for_model_s,
    )


def _note_server(server: Server) -> None:
    """Notes the server in the request's log line and span; with several, the last one stays."""
    call = current_call()
    call.server = server.name
    if (stage := call.client_stage) is not None:
        address, _, port = server.client.url.rpartition(":")
        stage.note(names.SERVER_ADDRESS, address if port.isdigit() else server.client.url)
        if port.isdigit():
            stage.note(names.SERVER_PORT, int(port))
