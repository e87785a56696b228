"""Traces: which requests have one, and how their spans reach a receiver of OTLP.

The SDK samples, queues and sends; the spans are made from what `calls` has recorded, when a request
has ended. The queue is bounded and spans that do not fit are dropped, so a receiver that is dead or
slow does not delay requests.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from requests import Session

from orchestrator import __version__
from orchestrator.core.events import EngineTimings
from orchestrator.telemetry import names
from orchestrator.telemetry.calls import Call, Parent, Stage, Value, new_span_id, new_trace_id
from orchestrator.telemetry.otel_env import Signal, otlp_endpoint

_CLOSE_S = 2.0
"""Seconds that the end of the process waits for spans to be sent."""
_NO_PARENT = Context()
_KINDS = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
_SERVER_ERROR = 500


class Tracing:
    """One sampler and one queue of spans. Close it."""

    def __init__(self, worker: int, exporter: SpanExporter | None = None) -> None:
        """Reads the `OTEL_*` variables for sampler, queue, receiver and resource."""
        self.resource = process_resource(worker)
        provider = TracerProvider(resource=self.resource, shutdown_on_exit=False)
        self._sampler = provider.sampler
        self._root_bound = _root_bound(provider.sampler)
        self._processor = BatchSpanProcessor(
            exporter or OTLPSpanExporter(session=session_of("traces"))
        )
        self._scope = InstrumentationScope(names.SCOPE, __version__, names.SCHEMA_URL)
        quiet_exporter()

    def begin(self, call: Call, name: str) -> None:
        """Gives `call` its trace, the caller's if there is one, and decides on its spans."""
        parent = call.parent
        if parent is None:
            call.trace_id = new_trace_id()
            if self._root_bound is not None:
                if call.trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._root_bound:
                    call.sample()
                return
        else:
            call.trace_id = parent.trace_id
        context = _NO_PARENT if parent is None else _context(parent)
        result = self._sampler.should_sample(context, call.trace_id, name, SpanKind.SERVER)
        if result.decision is Decision.RECORD_AND_SAMPLE:
            call.sample()

    def finish(self, call: Call, name: str, ended_ns: int, status: int, error: str) -> None:
        """Sends the spans of a request that has ended, if it has any."""
        if not call.sampled:
            return
        context = self._span_context(call, call.span_id)
        remote = _span_context(call.parent) if call.parent is not None else None
        failed = status >= _SERVER_ERROR
        self._emit(
            ReadableSpan(
                name,
                context=context,
                parent=remote,
                resource=self.resource,
                attributes=call.attributes,
                # A call without an HTTP status was started by a request that has one.
                kind=SpanKind.SERVER if status else SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR, error) if failed else Status(),
                start_time=call.began_at_ns,
                end_time=call.unix_ns(ended_ns),
                instrumentation_scope=self._scope,
            )
        )
        for stage in call.stages:
            self._emit(self._stage_span(call, context, stage, ended_ns))
        if call.client_stage is not None:
            engine = self._span_context(call, call.engine_span_id)
            began_ns = call.unix_ns(call.client_stage.began_ns)
            for index, timings in enumerate(call.timings):
                for phase in _phases(timings, began_ns):
                    self._emit(self._phase_span(engine, index, *phase))

    async def close(self) -> None:
        """Sends the rest, if it can be sent soon."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _CLOSE_S)

    def flush(self) -> None:
        """Sends all queued spans; returns when they are sent."""
        self._processor.force_flush()

    def _emit(self, span: ReadableSpan) -> None:
        self._processor.on_end(span)

    def _stage_span(
        self, call: Call, parent: SpanContext, stage: Stage, ended_ns: int
    ) -> ReadableSpan:
        is_client = stage is call.client_stage
        span_id = call.engine_span_id if is_client else new_span_id()
        if stage.error:
            stage.attributes[names.ERROR_TYPE] = stage.error
        return ReadableSpan(
            stage.name,
            context=self._span_context(call, span_id),
            parent=parent,
            resource=self.resource,
            attributes=stage.attributes,
            events=[Event(name, None, call.unix_ns(at_ns)) for name, at_ns in stage.events],
            kind=_KINDS[stage.kind],
            status=Status(StatusCode.ERROR) if stage.error else Status(),
            start_time=call.unix_ns(stage.began_ns),
            end_time=call.unix_ns(stage.ended_ns or ended_ns),
            instrumentation_scope=self._scope,
        )

    def _phase_span(
        self, parent: SpanContext, choice: int, name: str, began_ns: int, ended_ns: int
    ) -> ReadableSpan:
        attributes: dict[str, Value] = {names.CHOICE: choice}
        return ReadableSpan(
            name,
            context=SpanContext(
                parent.trace_id, new_span_id(), False, parent.trace_flags, parent.trace_state
            ),
            parent=parent,
            resource=self.resource,
            attributes=attributes,
            start_time=began_ns,
            end_time=ended_ns,
            instrumentation_scope=self._scope,
        )

    def _span_context(self, call: Call, span_id: int) -> SpanContext:
        return SpanContext(call.trace_id, span_id, False, _SAMPLED, _state(call.parent))


_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def _root_bound(sampler: Sampler) -> int | None:
    """Returns the bound below which trace ids without a parent are sampled, or `None`.

    `None` means that only `sampler` knows; asking it takes a dozen calls and makes three objects
    for each request.
    """
    root = getattr(sampler, "_root", None) if isinstance(sampler, ParentBased) else sampler
    return root.bound if type(root) is TraceIdRatioBased else None


class _Hashed(Resource):
    """A resource whose hash is made once, and not from its JSON for every span that is sent.

    Spans are sent in a thread beside the loop, which would have to wait for that work.
    """

    def __init__(self, resource: Resource) -> None:
        super().__init__(dict(resource.attributes), resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


def process_resource(worker: int) -> Resource:
    """Returns which service and process reports. `OTEL_*` variables have priority."""
    resource = Resource.create(
        {"service.version": __version__, "service.instance.id": f"worker-{worker}"}
    )
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: names.SCOPE}))
    return _Hashed(resource)


def session_of(signal: Signal) -> Session | None:
    """Returns the HTTP session for a receiver on this machine, otherwise `None`, for the default.

    Otherwise `requests` would use `HTTP_PROXY`, if it is set, even for the loopback.
    """
    host = urlsplit(otlp_endpoint(signal) or "").hostname or ""
    if host != "localhost" and not _is_loopback(host):
        return None
    session = Session()
    session.trust_env = False
    return session


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def quiet_exporter() -> None:
    """Reduces the log of a receiver that is away to a line once in a while, not one per batch."""
    for part in ("exporter.otlp", "sdk"):
        logging.getLogger(f"opentelemetry.{part}").setLevel(logging.ERROR)


def _context(parent: Parent) -> Context:
    return trace.set_span_in_context(NonRecordingSpan(_span_context(parent)), Context())


def _span_context(parent: Parent) -> SpanContext:
    return SpanContext(
        parent.trace_id, parent.span_id, True, TraceFlags(parent.flags), _state(parent)
    )


def _state(parent: Parent | None) -> TraceState | None:
    if parent is None or not parent.state:
        return None
    return TraceState.from_header([parent.state])


def _phases(timings: EngineTimings, began_ns: int) -> Sequence[tuple[str, int, int]]:
    """Returns name, start and end of what the engine did.

    An engine on another machine has another clock: a time before our call is moved to its start.
    """
    shift = max(0, began_ns - timings.arrived_at_ns)
    moments = [
        at_ns + shift
        for at_ns in (
            timings.arrived_at_ns,
            timings.scheduled_at_ns,
            timings.first_token_at_ns,
            timings.last_token_at_ns,
        )
    ]
    phases = (names.ENGINE_QUEUE, names.ENGINE_PREFILL, names.ENGINE_DECODE)
    return list(zip(phases, moments, moments[1:], strict=False))
