"""Spans: made of what was noted, sampled as the variables say, children of the right parents."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanKind, StatusCode

from orchestrator.core.events import EngineTimings
from orchestrator.telemetry import names
from orchestrator.telemetry.calls import Call, Parent
from orchestrator.telemetry.tracing import Tracing, session_of
from tests.otlp_receiver import receiving

Traced = Callable[[], tuple[Tracing, InMemorySpanExporter]]


@pytest.fixture
def traced() -> Traced:
    def make() -> tuple[Tracing, InMemorySpanExporter]:
        exporter = InMemorySpanExporter()
        return Tracing(3, exporter), exporter

    return make


def spans_of(
    tracing: Tracing, exporter: InMemorySpanExporter, call: Call, status: int = 200, error: str = ""
) -> dict[str, ReadableSpan]:
    tracing.finish(call, "POST /v1/x", time.perf_counter_ns(), status, error)
    tracing.flush()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_stages_are_children_of_the_request_and_phases_of_the_call_to_the_engine(
    traced: Traced,
) -> None:
    tracing, exporter = traced()
    call = Call("req_1", "req_1")
    tracing.begin(call, "POST")
    with call.stage(names.POLICY) as stage:
        stage.note(names.POLICY_RULE, "allowed")
    engine = call.engine_stage("chat acme/chat")
    engine.event(names.EVENT_FIRST_TOKEN)
    engine.end()
    at_ns = call.unix_ns(engine.began_ns)
    call.timings = (EngineTimings(at_ns + 10, at_ns + 20, at_ns + 40, at_ns + 90),)
    spans = spans_of(tracing, exporter, call)
    root = spans["POST /v1/x"]
    assert root.kind is SpanKind.SERVER
    assert root.parent is None
    assert root.resource.attributes["service.name"] == "orchestrator"
    assert root.resource.attributes["service.instance.id"] == "worker-3"
    assert root.instrumentation_scope is not None
    assert root.instrumentation_scope.schema_url == names.SCHEMA_URL
    assert root.context is not None
    for name in (names.POLICY, "chat acme/chat"):
        assert spans[name].parent == root.context
    assert dict(spans[names.POLICY].attributes or {}) == {names.POLICY_RULE: "allowed"}
    client = spans["chat acme/chat"]
    assert client.kind is SpanKind.CLIENT
    assert client.context is not None
    assert client.context.span_id == call.engine_span_id
    assert [event.name for event in client.events] == [names.EVENT_FIRST_TOKEN]
    phases = [
        spans[name] for name in (names.ENGINE_QUEUE, names.ENGINE_PREFILL, names.ENGINE_DECODE)
    ]
    assert all(phase.parent == client.context for phase in phases)
    assert [(phase.end_time or 0) - (phase.start_time or 0) for phase in phases] == [10, 20, 50]


def test_an_engine_whose_clock_is_behind_does_not_begin_before_it_was_called(
    traced: Traced,
) -> None:
    tracing, exporter = traced()
    call = Call("req_1", "req_1")
    tracing.begin(call, "POST")
    call.engine_stage("chat m").end()
    call.timings = (EngineTimings(10, 20, 30, 40),)
    spans = spans_of(tracing, exporter, call)
    assert spans[names.ENGINE_QUEUE].start_time == spans["chat m"].start_time
    assert spans[names.ENGINE_DECODE].end_time == (spans["chat m"].start_time or 0) + 30


def test_a_callers_trace_goes_on_and_its_decision_counts(traced: Traced) -> None:
    tracing, exporter = traced()
    for flags in (0, 1):
        call = Call("req_1", "req_1")
        call.parent = Parent(7, 8, flags, "vendor=x")
        tracing.begin(call, "POST")
        assert call.trace_id == 7
        assert call.sampled == bool(flags)
        spans = spans_of(tracing, exporter, call)
    assert set(spans) == {"POST /v1/x"}
    parent = spans["POST /v1/x"].parent
    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.is_remote) == (7, 8, True)
    assert parent.trace_state.to_header() == "vendor=x"


def test_the_sampler_of_the_variables_decides(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front")
    tracing, exporter = traced()
    call = Call("req_1", "req_1")
    tracing.begin(call, "POST")
    assert call.trace_id
    assert not call.sampled
    assert spans_of(tracing, exporter, call) == {}
    assert tracing.resource.attributes["service.name"] == "front"


@pytest.mark.parametrize(
    ("sampler", "share"),
    [
        *((name, share) for name in ("parentbased_traceidratio", "traceidratio")
          for share in ("0", "0.1", "0.5", "1")),
        ("always_on", ""), ("always_off", ""), ("parentbased_always_on", ""),
        ("parentbased_always_off", ""), ("", ""),
    ],
)  # fmt: skip
def test_whatever_the_sampler_it_is_the_sdk_that_decides(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, sampler: str, share: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler or "parentbased_always_on")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", share)
    tracing, _ = traced()
    sdk = TracerProvider(shutdown_on_exit=False).sampler
    edges = [round(float(share or 1) * 2**64) + step for step in (-1, 0, 1)]
    ids = [one % 2**64 or 1 for one in edges] + [random.getrandbits(128) for _ in range(300)]
    for trace_id in [*ids, *(one | 1 << 127 for one in ids)]:
        monkeypatch.setattr(
            "orchestrator.telemetry.tracing.new_trace_id", lambda chosen=trace_id: chosen
        )
        call = Call("req_1", "req_1")
        tracing.begin(call, "POST")
        said = sdk.should_sample(Context(), trace_id, "POST", SpanKind.SERVER)
        assert call.trace_id == trace_id
        assert call.sampled == (said.decision is Decision.RECORD_AND_SAMPLE)


def test_only_faults_of_ours_make_the_request_an_error(traced: Traced) -> None:
    for status, code in ((404, StatusCode.UNSET), (503, StatusCode.ERROR)):
        tracing, exporter = traced()
        call = Call("req_1", "req_1")
        tracing.begin(call, "POST")
        with pytest.raises(KeyError), call.stage("route"):
            raise KeyError
        spans = spans_of(tracing, exporter, call, status, "word")
        assert spans["POST /v1/x"].status.status_code is code
        assert spans["route"].status.status_code is StatusCode.ERROR
        assert dict(spans["route"].attributes or {}) == {names.ERROR_TYPE: "KeyError"}


def test_what_is_no_reply_is_no_server_span(traced: Traced) -> None:
    tracing, exporter = traced()
    call = Call("req_1", "req_1")
    tracing.begin(call, "chat m")
    assert spans_of(tracing, exporter, call, status=0)["POST /v1/x"].kind is SpanKind.INTERNAL


async def test_closing_sends_what_is_left(traced: Traced) -> None:
    tracing, exporter = traced()
    call = Call("req_1", "req_1")
    tracing.begin(call, "POST")
    tracing.finish(call, "POST /v1/x", time.perf_counter_ns(), 200, "")
    await tracing.close()
    assert len(exporter.get_finished_spans()) == 1


def test_the_resource_is_hashed_once_and_not_for_every_span(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing, _ = traced()
    same = Resource(dict(tracing.resource.attributes), tracing.resource.schema_url)
    assert tracing.resource == same
    assert hash(tracing.resource) == hash(same)
    monkeypatch.setattr(Resource, "__hash__", None)
    assert {tracing.resource: 1}[tracing.resource] == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_receiver_on_this_machine_is_reached_without_the_proxy(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed, receiving() as receiver:
        closed.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.replace("127.0.0.1", host))
        tracing = Tracing(0)
        call = Call("req_1", "req_1")
        tracing.begin(call, "POST")
        tracing.finish(call, "POST /v1/x", time.perf_counter_ns(), 200, "")
        tracing.flush()
        receiver.wait_for(lambda: bool(receiver.trace(f"{call.trace_id:032x}")))


def test_a_receiver_elsewhere_keeps_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example.com")
    assert session_of("traces") is None
    assert session_of("metrics") is None
