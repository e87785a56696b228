"""What is noted of one request while it runs: its ids, and when each stage began and ended.

It is noted in plain values whether or not the request is traced, because the reply's
`Server-Timing` is made of the same stages. Spans are made of them when the request is over.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from orchestrator.core.events import EngineTimings
from orchestrator.telemetry import names

Value = str | bool | int | float | tuple[str, ...]
Kind = Literal["internal", "client"]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MOST_STATE = 512
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Parent:
    """The span of the caller that a request came out of. `state` is `tracestate` as it came."""

    trace_id: int
    span_id: int
    flags: int
    state: str = ""


class Stage:
    """A part of a request, from `with` to its end. Times are those of `time.perf_counter_ns`.

    A stage that an error ends has its type as `error`; `end` twice is once.
    """

    __slots__ = ("_call", "attributes", "began_ns", "ended_ns", "error", "events", "kind", "name")

    def __init__(self, call: Call, name: str, kind: Kind = "internal") -> None:
        self._call = call
        self.name = name
        self.kind = kind
        self.began_ns = self.ended_ns = 0
        self.error = ""
        self.attributes: dict[str, Value] = {}
        self.events: list[tuple[str, int]] = []

    def begin(self) -> Stage:
        """Begins now."""
        self.began_ns = time.perf_counter_ns()
        self._call.stages.append(self)
        return self

    def end(self) -> None:
        """Ends now."""
        if not self.ended_ns:
            self.ended_ns = time.perf_counter_ns()

    def note(self, name: str, value: Value) -> None:
        """An attribute of the stage's span; of a request that is not traced nothing is kept."""
        if self._call.sampled:
            self.attributes[name] = value

    def event(self, name: str) -> None:
        """Something that happened just now."""
        self.events.append((name, time.perf_counter_ns()))

    @property
    def duration_ns(self) -> int:
        """Until its end, or until now."""
        return (self.ended_ns or time.perf_counter_ns()) - self.began_ns

    def __enter__(self) -> Stage:
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.end()
        if kind is not None:
            self.error = getattr(error, "code", None) or kind.__name__


class Call:
    """One request. `trace_id` is 0 where nobody traces; `sampled` tells whether spans are kept.

    In a session, which is one request to HTTP, each call to a model is noted by itself. `server` is
    the name of the Triton that answers, where there are several.
    """

    __slots__ = (
        "attributes", "began_at_ns", "began_ns", "call_id", "client_stage", "engine_span_id",
        "is_over", "is_session", "parent", "request_id", "sampled", "server", "span_id", "stages",
        "timings", "trace_id",
    )  # fmt: skip

    def __init__(self, request_id: str = "", call_id: str = "") -> None:
        self.request_id = request_id
        self.call_id = call_id
        self.trace_id = 0
        self.span_id = 0
        self.engine_span_id = 0
        self.sampled = False
        self.is_over = False
        self.is_session = False
        self.parent: Parent | None = None
        self.began_at_ns = time.time_ns()
        self.began_ns = time.perf_counter_ns()
        self.stages: list[Stage] = []
        self.attributes: dict[str, Value] = {}
        self.client_stage: Stage | None = None
        self.server = ""
        self.timings: tuple[EngineTimings, ...] = ()

    def sample(self) -> None:
        """The request is traced: its spans get ids now, because others are told of them."""
        self.sampled = True
        self.span_id = new_span_id()
        self.engine_span_id = new_span_id()

    def child(self) -> Call:
        """A call that came out of this one, in the same trace, and is noted by itself."""
        child = Call(self.request_id, self.call_id)
        if self.trace_id:
            state = self.parent.state if self.parent is not None else ""
            span_id = self.span_id or new_span_id()
            child.parent = Parent(self.trace_id, span_id, int(self.sampled), state)
        return child

    def stage(self, name: str) -> Stage:
        """A part of the request, to be entered."""
        return Stage(self, name)

    def engine_stage(self, name: str) -> Stage:
        """The call to the engine, begun now; what the engine tells of it goes below."""
        self.client_stage = Stage(self, name, "client")
        return self.client_stage.begin()

    def unix_ns(self, at_ns: int) -> int:
        """The moment `at_ns` of the stages' clock as Unix time."""
        return self.began_at_ns + at_ns - self.began_ns

    @property
    def first_token_s(self) -> float | None:
        """When the first token came, in seconds after the request."""
        if self.client_stage is None:
            return None
        for name, at_ns in self.client_stage.events:
            if name == names.EVENT_FIRST_TOKEN:
                return (at_ns - self.began_ns) / 1e9
        return None

    @property
    def trace(self) -> str:
        """The trace id as it is written, or nothing."""
        return f"{self.trace_id:032x}" if self.trace_id else ""


_current: ContextVar[Call | None] = ContextVar("orchestrator_call", default=None)


def enter(call: Call) -> Token[Call | None]:
    """Makes `call` the one of this task, and of the tasks that it starts from now on."""
    return _current.set(call)


def leave(token: Token[Call | None]) -> None:
    """Makes it what it was before `enter`; in another task than that one it does nothing."""
    with contextlib.suppress(ValueError):
        _current.reset(token)


def outlive() -> None:
    """For a task that goes on when the request that began it is over.

    Its calls to models are noted by themselves, in the trace of that request.
    """
    if (call := _current.get()) is None:
        return
    session = Call(call.request_id, call.call_id)
    session.is_session = True
    session.trace_id, session.span_id, session.parent = call.trace_id, call.span_id, call.parent
    session.sampled = call.sampled
    _current.set(session)


def current_call() -> Call:
    """The request that this task works for; outside of requests one that nobody looks at."""
    return _current.get() or Call()


def call_at_work() -> Call | None:
    """The request that this task works for, if it does."""
    return _current.get()


def engine_metadata() -> tuple[tuple[str, str], ...]:
    """What a call to an engine carries, so that its spans become children of ours.

    Of a request that is not traced it is nothing: Triton traces whatever names a parent.
    """
    call = _current.get()
    if call is None or not call.sampled:
        return ()
    context = ("traceparent", f"00-{call.trace_id:032x}-{call.engine_span_id:016x}-01")
    if call.parent is not None and call.parent.state:
        return (context, ("tracestate", call.parent.state))
    return (context,)


def read_parent(headers: Mapping[bytes, bytes]) -> Parent | None:
    """The caller's span, if the headers name one as they should. Source: W3C Trace Context 1."""
    given = headers.get(b"traceparent")
    if given is None:
        return None
    found = _TRACEPARENT.fullmatch(given.decode("latin-1").strip())
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    state = headers.get(b"tracestate", b"").decode("latin-1").strip()
    kept = state if len(state) <= _MOST_STATE and state.isascii() and state.isprintable() else ""
    return Parent(trace_id, span_id, int(found[4], 16) & _SAMPLED, kept)


def new_trace_id() -> int:
    """Random, and never zero."""
    return random.getrandbits(128) or 1


def new_span_id() -> int:
    """Random, and never zero."""
    return random.getrandbits(64) or 1


def server_timing(call: Call) -> str:
    """The stages of `call` so far, as the header `Server-Timing` has them, in milliseconds.

    Source: W3C Server Timing. Where the engine told its times they stand for the call to it.
    """
    spent: dict[str, int] = {}
    for stage in call.stages:
        if stage.kind == "client":
            spent |= engine_phases(call.timings) or {"engine": stage.duration_ns}
        elif stage.name != names.STREAM:
            spent[stage.name] = spent.get(stage.name, 0) + stage.duration_ns
    spent["total"] = time.perf_counter_ns() - call.began_ns
    return ", ".join(f"{name};dur={spent[name] / 1e6:.3f}" for name in spent)


def engine_phases(timings: tuple[EngineTimings, ...]) -> dict[str, int]:
    """Queue, prefill and decode in nanoseconds, of the choice that ended last; or nothing."""
    if not timings:
        return {}
    last = max(timings, key=lambda one: one.last_token_at_ns)
    return {
        "queue": max(0, last.scheduled_at_ns - last.arrived_at_ns),
        "prefill": max(0, last.first_token_at_ns - last.scheduled_at_ns),
        "decode": max(0, last.last_token_at_ns - last.first_token_at_ns),
    }
