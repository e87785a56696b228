"""What is noted of a request: stages, the caller's trace, what engines are told of it."""

from __future__ import annotations

import asyncio
import gc
import re

import pytest

from orchestrator.core.errors import PolicyDenied
from orchestrator.core.events import EngineTimings
from orchestrator.telemetry import names
from orchestrator.telemetry.calls import (
    Call,
    Parent,
    call_at_work,
    current_call,
    engine_metadata,
    enter,
    leave,
    outlive,
    read_parent,
    server_timing,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def parent_of(text: str, state: bytes = b"") -> Parent | None:
    return read_parent({b"traceparent": text.encode(), b"tracestate": state})


def test_a_callers_span_is_read_as_it_was_written() -> None:
    assert parent_of(f"00-{TRACE}-{SPAN}-01", b"vendor=x") == Parent(
        int(TRACE, 16), int(SPAN, 16), 1, "vendor=x"
    )
    sampled_out = parent_of(f"00-{TRACE}-{SPAN}-02")
    assert sampled_out is not None
    assert sampled_out.flags == 0
    assert parent_of(f"01-{TRACE}-{SPAN}-01-more") is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\r\nx: y",
    ],
)
def test_a_span_that_is_not_written_as_it_should_be_counts_as_none(text: str) -> None:
    assert parent_of(text) is None
    assert read_parent({}) is None


@pytest.mark.parametrize("state", [b"x" * 513, b"a\x00b", b"\xff"])
def test_a_state_that_is_too_long_or_no_text_is_left_out(state: bytes) -> None:
    parent = parent_of(f"00-{TRACE}-{SPAN}-01", state)
    assert parent is not None
    assert parent.state == ""


def test_engines_are_told_of_requests_that_are_traced_only() -> None:
    assert engine_metadata() == ()
    call = Call("req_1", "req_1")
    token = enter(call)
    try:
        call.trace_id = int(TRACE, 16)
        assert engine_metadata() == ()
        call.sample()
        ((name, value),) = engine_metadata()
        assert name == "traceparent"
        assert value == f"00-{TRACE}-{call.engine_span_id:016x}-01"
        call.parent = Parent(call.trace_id, 1, 1, "vendor=x")
        assert engine_metadata()[1] == ("tracestate", "vendor=x")
        assert current_call() is call
    finally:
        leave(token)
    assert call_at_work() is None


def test_a_stage_has_a_duration_and_the_word_of_the_error_that_ended_it() -> None:
    call = Call()
    with call.stage("a"):
        pass
    with pytest.raises(PolicyDenied), call.stage("b"):
        raise PolicyDenied("no")
    with pytest.raises(KeyError), call.stage("c"):
        raise KeyError
    assert [(stage.name, stage.error) for stage in call.stages] == [
        ("a", ""),
        ("b", "policy_denied"),
        ("c", "KeyError"),
    ]
    assert all(stage.ended_ns >= stage.began_ns > 0 for stage in call.stages)


def test_attributes_are_kept_of_requests_that_are_traced_only() -> None:
    call = Call()
    with call.stage("a") as untraced:
        untraced.note("x", 1)
    call.sample()
    with call.stage("b") as stage:
        stage.note("y", 2)
    assert (untraced.attributes, stage.attributes) == ({}, {"y": 2})


def test_a_request_that_is_over_needs_no_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        call = Call("req_1", "req_1")
        with call.stage("a") as stage:
            stage.event("x")
        call.engine_stage("chat m").end()
        del call, stage
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_server_timing_names_each_stage_once_and_the_engine_by_its_phases() -> None:
    call = Call()
    for name in (names.AUTHENTICATE, names.QUOTA, names.QUOTA):
        with call.stage(name):
            pass
    call.engine_stage("chat m").end()
    with call.stage(names.STREAM):
        pass
    told = re.findall(r"(\w+);dur=\d+\.\d{3}", server_timing(call))
    assert told == ["authenticate", "quota", "engine", "total"]
    call.timings = (EngineTimings(0, 1_000_000, 3_000_000, 10_000_000),)
    assert "queue;dur=1.000, prefill;dur=2.000, decode;dur=7.000, total" in server_timing(call)


def test_the_first_token_is_timed_from_the_request() -> None:
    call = Call()
    assert call.first_token_s is None
    stage = call.engine_stage("chat m")
    assert call.first_token_s is None
    stage.event(names.EVENT_FIRST_TOKEN)
    assert call.first_token_s is not None
    assert call.first_token_s >= 0


def test_a_call_of_a_session_is_in_the_trace_of_the_session() -> None:
    session = Call("req_1", "req_1")
    assert session.child().parent is None
    session.trace_id = 7
    unsampled = session.child().parent
    assert unsampled is not None
    assert (unsampled.trace_id, unsampled.flags) == (7, 0)
    session.sample()
    assert session.child().parent == Parent(7, session.span_id, 1)


async def test_what_goes_on_after_a_request_is_noted_by_itself_in_its_trace() -> None:
    outlive()
    assert call_at_work() is None
    call = Call("req_1", "req_1")
    call.trace_id = 7
    call.sample()
    token = enter(call)

    async def background() -> Call | None:
        outlive()
        return call_at_work()

    left = await asyncio.create_task(background())
    assert call_at_work() is call
    leave(token)
    assert left is not None
    assert left is not call
    assert left.is_session
    assert left.child().parent == Parent(7, call.span_id, 1)
