"""One trace from the client into the engine, over a real Triton and a real receiver."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import secrets
import socket
import sqlite3
import statistics
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import requests

from orchestrator.telemetry import names
from orchestrator.telemetry.calls import Call
from orchestrator.telemetry.tracing import Tracing
from tests.integration.observed import MODEL, Observed
from tests.integration.serving import wait_until
from tests.otlp_receiver import Span

CLIENT_SPAN = "b7ad6b7169203331"
STAGES = [
    "authenticate", "read", "policy", "route", "quota", "render", "quota",
    f"chat {MODEL}", "stream",
]  # fmt: skip
PHASES = ["engine queue", "engine prefill", "engine decode"]


def traceparent(trace_id: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{CLIENT_SPAN}-{flags}"}


def traced(watched: Observed, **body: object) -> tuple[list[Span], requests.Response]:
    """The whole trace of one call, and its reply.

    Triton 2.51 sends no span at all of some requests, so the call is made again then.
    """
    for _ in range(5):
        trace_id = secrets.token_hex(16)
        reply = watched.chat(traceparent(trace_id), **body)
        assert reply.status_code == 200
        own = {"stream", *PHASES}
        watched.receiver.wait_for(lambda: own <= spans_named(watched, trace_id))  # noqa: B023  # waits here
        with contextlib.suppress(TimeoutError):
            theirs = {"InferRequest", "compute"}
            watched.receiver.wait_for(lambda: theirs <= spans_named(watched, trace_id), 5)  # noqa: B023  # waits here
            return watched.receiver.trace(trace_id), reply
    raise AssertionError("Triton has sent no spans of five calls")


def spans_named(watched: Observed, trace_id: str) -> set[str]:
    return {span.name for span in watched.receiver.trace(trace_id)}


def named(spans: list[Span], name: str) -> Span:
    return next(span for span in spans if span.name == name)


@pytest.mark.parametrize("stream", [False, True])
def test_one_trace_goes_from_the_client_into_the_phases_of_the_engine(
    watched: Observed, stream: bool
) -> None:
    spans, _ = traced(watched, stream=stream, max_tokens=40)
    root = named(spans, "POST /v1/chat/completions")
    assert root.parent_id == CLIENT_SPAN
    assert root.schema == names.SCHEMA_URL
    children = [span for span in spans if span.parent_id == root.span_id]
    assert [span.name for span in sorted(children, key=lambda span: span.began_ns)] == STAGES
    engine = named(spans, f"chat {MODEL}")
    # The first token of an answer in one piece may have been seen by nobody: the phases tell of it.
    told = [event for event, _ in engine.events]
    assert told == ["first token", "end"] or (told == ["end"] and not stream)
    below = {span.name for span in spans if span.parent_id == engine.span_id}
    assert below == {"InferRequest", *PHASES}
    triton = named(spans, "InferRequest")
    assert triton.service == "triton"
    assert named(spans, "compute").trace_id == root.trace_id
    assert {media for path, media in watched.receiver.requests if path == "/v1/traces"} == {
        "application/x-protobuf",
        "application/json",
    }


def test_the_phases_add_up_to_the_whole(watched: Observed) -> None:
    shares = []
    for _ in range(5):
        spans, _ = traced(watched, stream=True, max_tokens=400)
        root = named(spans, "POST /v1/chat/completions")
        before = [name for name in STAGES if name not in ("stream", f"chat {MODEL}")]
        told = sum(named(spans, name).duration_ns for name in (*dict.fromkeys(before), *PHASES))
        shares.append(told / root.duration_ns)
    # The machine may be busy with something else during some of them.
    assert 0.95 < max(shares) <= 1.05, shares


def test_what_the_caller_sampled_out_is_sent_by_nobody(watched: Observed) -> None:
    left_out = secrets.token_hex(16)
    assert watched.chat(traceparent(left_out, "00"), max_tokens=5).status_code == 200
    traced(watched, max_tokens=5)
    assert watched.receiver.trace(left_out) == []
    assert left_out in watched.serving.log


def test_a_request_id_finds_trace_log_line_usage_record_and_audit_line(watched: Observed) -> None:
    serving = watched.serving
    headers = {"authorization": f"Bearer {serving.key}"}
    narrow = requests.post(
        f"{serving.base_url}/keys",
        json={"label": "narrow", "policy_id": "pol_default", "allowed_models": ["demo/embed"]},
        headers=headers,
        timeout=60,
    ).json()
    answered, refused = f"ok-{secrets.token_hex(4)}", f"no-{secrets.token_hex(4)}"
    assert watched.chat({"x-request-id": answered}, max_tokens=5).status_code == 200
    denied = {"x-request-id": refused, "authorization": f"Bearer {narrow['secret']}"}
    assert watched.chat(denied).status_code == 403

    def spans_of(request_id: str) -> list[Span]:
        return [
            span
            for span in watched.receiver.spans
            if span.attributes.get(names.REQUEST_ID) == request_id
        ]

    for request_id, status in ((answered, 200), (refused, 403)):
        watched.receiver.wait_for(lambda request_id=request_id: bool(spans_of(request_id)))  # type: ignore[misc]  # bound now
        (span,) = spans_of(request_id)
        (line,) = [
            json.loads(text)
            for text in serving.log.splitlines()
            if f'"request_id":"{request_id}"' in text and '"message":"request"' in text
        ]
        assert line["trace_id"] == span.trace_id
        assert line["status"] == span.attributes[names.HTTP_STATUS] == status
    denials = f"{serving.base_url}/audit?action=request.denied"
    wait_until(
        lambda: refused in requests.get(denials, headers=headers, timeout=60).text,
        60,
        "the line in the audit",
    )
    wait_until(lambda: answered in booked(serving.data_dir), 60, "the usage record")


def booked(data_dir: Path) -> list[str]:
    """The request ids in the books."""
    with closing(sqlite3.connect(f"file:{data_dir}/orchestrator.db?mode=ro", uri=True)) as store:
        return [row[0] for row in store.execute("select request_id from usage_record")]


def test_nothing_of_prompts_answers_and_keys_is_sent(watched: Observed) -> None:
    secret = f"word{secrets.token_hex(8)}"
    messages = [{"role": "user", "content": f"Say {secret}"}]
    spans, reply = traced(watched, messages=messages, max_tokens=20)
    answer = reply.json()["choices"][0]["message"]["content"].strip()
    everything = " ".join(f"{span.name} {span.attributes}" for span in spans)
    for text in (secret, answer, watched.serving.key, watched.serving.key[-32:]):
        assert text not in everything
    assert secret not in watched.serving.log


@pytest.mark.parametrize("kind", ["refused", "silent"])
async def test_a_dead_receiver_costs_a_request_next_to_nothing_and_keeps_no_memory(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":
            listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        tracing = Tracing(0)
        process = psutil.Process()
        took, resident = [], []
        for number in range(6000):
            began_at = time.perf_counter()
            call = Call("req_1", "req_1")
            tracing.begin(call, "POST")
            for name in STAGES:
                with call.stage(name):
                    pass
            tracing.finish(call, "POST /", time.perf_counter_ns(), 200, "")
            took.append(time.perf_counter() - began_at)
            if number % 1000 == 999:
                gc.collect()
                resident.append(process.memory_info().rss)
            await asyncio.sleep(0)
        await tracing.close()
    # Waiting for that collector would take seconds.
    assert statistics.median(took) < 0.1
    # The queue is full after the first three hundred; from then on nothing grows.
    assert resident[-1] - resident[0] < 8 * 1024 * 1024, resident
