"""A receiver of OTLP over HTTP, protobuf and JSON, that keeps what it gets."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    """A span as it came, its times in Unix nanoseconds."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    kind: int = 0
    status: int = 0
    schema: str = ""
    attributes: Attributes = field(default_factory=dict)
    events: Sequence[tuple[str, int]] = ()

    @property
    def duration_ns(self) -> int:
        """From begin to end."""
        return self.ended_ns - self.began_ns


class Receiver:
    """What has come so far. `requests` counts everything that was posted, by path and format."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.spans: list[Span] = []
        self.metrics: dict[str, list[Any]] = {}
        self.requests: list[tuple[str, str]] = []

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace, by their begin."""
        found = [span for span in list(self.spans) if span.trace_id == trace_id]
        return sorted(found, key=lambda span: (span.began_ns, -span.ended_ns))

    def wait_for(self, is_there: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Returns when `is_there`. Raises: TimeoutError."""
        give_up_at = time.monotonic() + timeout_s
        while not is_there():
            if time.monotonic() > give_up_at:
                latest = [(span.service, span.name) for span in self.spans[-20:]]
                raise TimeoutError(f"{len(self.spans)} spans have come, the latest {latest}")
            time.sleep(0.02)

    def take(self, path: str, media_type: str, body: bytes) -> None:
        """One request."""
        self.requests.append((path, media_type))
        if path == "/v1/metrics":
            self._take_metrics(body)
        elif media_type.startswith("application/json"):
            self.spans += _spans_of_json(json.loads(body))
        else:
            self.spans += _spans_of_protobuf(body)

    def _take_metrics(self, body: bytes) -> None:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    self.metrics.setdefault(metric.name, []).append(metric)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port of the loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            media_type = self.headers.get("content-type", "")
            receiver.take(self.path, media_type, body)
            self.send_response(200)
            self.send_header("content-type", media_type)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tree(spans: Sequence[Span]) -> str:
    """Spans as a tree, with durations in milliseconds, for people."""
    known = {span.span_id for span in spans}
    lines: list[str] = []

    def add(span: Span, depth: int) -> None:
        indent = "  " * depth
        lines.append(
            f"{indent + span.name:<44} {span.service:<13} {span.duration_ns / 1e6:9.3f} ms"
        )
        lines.extend(
            f"{indent}  · {name} at {(at_ns - span.began_ns) / 1e6:.3f} ms"
            for name, at_ns in span.events
        )
        for child in spans:
            if child.parent_id == span.span_id:
                add(child, depth + 1)

    for span in spans:
        if span.parent_id not in known:
            add(span, 0)
    return "\n".join(lines)


def _spans_of_protobuf(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    str(service),
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.kind,
                    span.status.code,
                    scope.schema_url,
                    _attributes(span.attributes),
                    [(event.name, event.time_unix_nano) for event in span.events],
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None


def _spans_of_json(document: Any) -> Iterator[Span]:
    for resource in document["resourceSpans"]:
        pairs = resource["resource"].get("attributes", [])
        service = {pair["key"]: pair["value"] for pair in pairs}.get("service.name", {})
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                yield Span(
                    service.get("stringValue", ""),
                    span["name"],
                    span["traceId"].lower(),
                    span["spanId"].lower(),
                    span.get("parentSpanId", "").lower(),
                    int(span["startTimeUnixNano"]),
                    int(span["endTimeUnixNano"]),
                    span.get("kind", 0),
                )
