"""What is recorded of one request while it runs: its ids, and start and end of each stage.

It is recorded in plain values whether or not the request is traced, because the reply's
`Server-Timing` is made from the same stages. Spans are made from them when the request has ended.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter_ns
from types import TracebackType
from typing import Literal

import msgspec

from orchestrator.core.events import EngineTimings
from orchestrator.telemetry import names

Value = str | bool | int | float | tuple[str, ...]
Kind = Literal["internal", "client"]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_STATE = 512
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span that a request belongs to. `state` is `tracestate` as received."""

    trace_id: int
    span_id: int
    flags: int
    state: str = ""


class Stage(msgspec.Struct, eq=False):
    """A part of a request, from its start to its end. Times are those of `time.perf_counter_ns`.

    As a context manager it ends with the block; an error that ends it has its type as `error`.
    `end` is idempotent. A struct, as `Call`, because there are ten of them for each request.
    """

    name: str
    is_traced: bool = False
    kind: Kind = "internal"
    began_ns: int = msgspec.field(default_factory=perf_counter_ns)
    ended_ns: int = 0
    error: str = ""
    attributes: dict[str, Value] = msgspec.field(default_factory=dict)
    events: list[tuple[str, int]] = msgspec.field(default_factory=list)

    def end(self) -> None:
        """Ends now."""
        if not self.ended_ns:
            self.ended_ns = perf_counter_ns()

    def note(self, name: str, value: Value) -> None:
        """Sets an attribute of the stage's span; of an untraced request nothing is kept."""
        if self.is_traced:
            self.attributes[name] = value

    def event(self, name: str) -> None:
        """Records an event that happened just now."""
        self.events.append((name, perf_counter_ns()))

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if not self.ended_ns:
            self.ended_ns = perf_counter_ns()
        if kind is not None:
            self.error = getattr(error, "code", None) or kind.__name__


class Call(msgspec.Struct, eq=False):
    """One request. `trace_id` is 0 if it has no trace; `sampled` says whether spans are kept.

    In a session, which is one request to HTTP, each call to a model is recorded by itself. `server`
    is the name of the Triton that answers, if there are several.
    """

    request_id: str = ""
    call_id: str = ""
    trace_id: int = 0
    span_id: int = 0
    engine_span_id: int = 0
    sampled: bool = False
    is_over: bool = False
    is_session: bool = False
    parent: Parent | None = None
    began_at_ns: int = msgspec.field(default_factory=time.time_ns)
    began_ns: int = msgspec.field(default_factory=perf_counter_ns)
    stages: list[Stage] = msgspec.field(default_factory=list)
    attributes: dict[str, Value] = msgspec.field(default_factory=dict)
    client_stage: Stage | None = None
    server: str = ""
    timings: tuple[EngineTimings, ...] = ()

    def sample(self) -> None:
        """Marks the request as traced: its spans get ids now, for calls to engines."""
        self.sampled = True
        self.span_id = new_span_id()
        self.engine_span_id = new_span_id()

    def child(self) -> Call:
        """Returns a call made within this one, in the same trace, which is recorded by itself."""
        child = Call(self.request_id, self.call_id)
        if self.trace_id:
            state = self.parent.state if self.parent is not None else ""
            span_id = self.span_id or new_span_id()
            child.parent = Parent(self.trace_id, span_id, int(self.sampled), state)
        return child

    def passed(self, name: str, began_ns: int) -> None:
        """Records a part of the request from `began_ns` until now, without an error."""
        self.stages.append(Stage(name, self.sampled, "internal", began_ns, perf_counter_ns()))

    def stage(self, name: str) -> Stage:
        """Starts a part of the request."""
        stage = Stage(name, self.sampled)
        self.stages.append(stage)
        return stage

    def engine_stage(self, name: str) -> Stage:
        """Starts the stage of the call to the engine; the engine's own times go below it."""
        stage = self.client_stage = Stage(name, self.sampled, "client")
        self.stages.append(stage)
        return stage

    def unix_ns(self, at_ns: int) -> int:
        """Converts `at_ns` of the stages' clock to Unix time."""
        return self.began_at_ns + at_ns - self.began_ns

    @property
    def first_token_s(self) -> float | None:
        """When the first token came, in seconds after the start of the request."""
        if self.client_stage is None:
            return None
        for name, at_ns in self.client_stage.events:
            if name == names.EVENT_FIRST_TOKEN:
                return (at_ns - self.began_ns) / 1e9
        return None

    @property
    def trace(self) -> str:
        """The trace id in hexadecimal, or an empty text."""
        return f"{self.trace_id:032x}" if self.trace_id else ""


_current: ContextVar[Call | None] = ContextVar("orchestrator_call", default=None)


enter: Callable[[Call], Token[Call | None]] = _current.set
"""Makes a call the current one of this task, and of the tasks that it starts from now on."""


def leave(token: Token[Call | None]) -> None:
    """Restores the call from before `enter`; does nothing in another task than that one."""
    try:
        _current.reset(token)
    except ValueError:
        return


def outlive() -> None:
    """Call it in a task that continues after the request that started it.

    Its calls to models are recorded by themselves, in the trace of that request.
    """
    if (call := _current.get()) is None:
        return
    session = Call(call.request_id, call.call_id)
    session.is_session = True
    session.trace_id, session.span_id, session.parent = call.trace_id, call.span_id, call.parent
    session.sampled = call.sampled
    _current.set(session)


def current_call() -> Call:
    """Returns the request that this task works for; outside of requests an unused one."""
    return _current.get() or Call()


call_at_work: Callable[[], Call | None] = _current.get
"""Returns the request that this task works for, if any."""


def engine_metadata() -> tuple[tuple[str, str], ...]:
    """Returns metadata for a call to an engine, so that its spans become children of ours.

    It is empty for an untraced request, because Triton traces every request that names a parent.
    """
    call = _current.get()
    if call is None or not call.sampled:
        return ()
    context = ("traceparent", f"00-{call.trace_id:032x}-{call.engine_span_id:016x}-01")
    if call.parent is not None and call.parent.state:
        return (context, ("tracestate", call.parent.state))
    return (context,)


def read_parent(headers: Mapping[bytes, bytes]) -> Parent | None:
    """Reads the caller's span, if the headers hold a valid one. Source: W3C Trace Context 1."""
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
    kept = state if len(state) <= _MAX_STATE and state.isascii() and state.isprintable() else ""
    return Parent(trace_id, span_id, int(found[4], 16) & _SAMPLED, kept)


def new_trace_id() -> int:
    """Returns a random id that is never zero."""
    return random.getrandbits(128) or 1


def new_span_id() -> int:
    """Returns a random id that is never zero."""
    return random.getrandbits(64) or 1


def server_timing(call: Call) -> str:
    """Returns the stages of `call` so far in the format of `Server-Timing`, in milliseconds.

    Source: W3C Server Timing. If the engine reported its times, they replace the call to it.
    """
    now_ns = perf_counter_ns()
    spent: dict[str, int] = {}
    for stage in call.stages:
        name = stage.name
        duration_ns = (stage.ended_ns or now_ns) - stage.began_ns
        if stage.kind == "client":
            spent |= engine_phases(call.timings) or {"engine": duration_ns}
        elif name != names.STREAM:
            spent[name] = spent.get(name, 0) + duration_ns
    spent["total"] = now_ns - call.began_ns
    return _timing_format(tuple(spent)) % tuple([spent_ns / 1e6 for spent_ns in spent.values()])


@lru_cache(maxsize=64)
def _timing_format(stages: tuple[str, ...]) -> str:
    return ", ".join([f"{name};dur=%.3f" for name in stages])


def engine_phases(timings: tuple[EngineTimings, ...]) -> dict[str, int]:
    """Queue, prefill and decode in nanoseconds, of the choice that ended last; or empty."""
    if not timings:
        return {}
    last = max(timings, key=lambda one: one.last_token_at_ns)
    return {
        "queue": max(0, last.scheduled_at_ns - last.arrived_at_ns),
        "prefill": max(0, last.first_token_at_ns - last.scheduled_at_ns),
        "decode": max(0, last.last_token_at_ns - last.first_token_at_ns),
    }
