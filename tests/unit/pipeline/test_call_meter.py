"""One call's clock: waiting, cancelled, failed, and who is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from orchestrator.core.context import CallContext
from orchestrator.core.costs import Cost
from orchestrator.core.errors import InvalidRequest, ModelUnavailable
from orchestrator.core.events import EngineTimings, GenerationFinished, Usage
from orchestrator.core.request import EmbeddingRequest, GenerationRequest, TextPrompt
from orchestrator.keys.principal import Principal
from orchestrator.pipeline.call_meter import Meter
from orchestrator.telemetry.calls import Call, enter, leave
from orchestrator.telemetry.process import Telemetry

ANYBODY = Principal("key_1", "app", "ten_1", admin=False, allowed_models=("*",))
ASKED = GenerationRequest("alias", TextPrompt("hello"))


@pytest.fixture(autouse=True)
def request_at_work() -> Iterator[None]:
    """What the calls belong to."""
    token = enter(Call("req_1", "req_1"))
    yield
    leave(token)


def values(telemetry: Telemetry, name: str) -> dict[tuple[str, ...], float]:
    family = next(one for one in telemetry.metrics.registry.collect() if one.spec.name == name)
    return {
        one.labels: float(sum(one.counts)) if one.counts else one.value for one in family.series
    }


def started(telemetry: Telemetry, dialect: str = "chat") -> Meter:
    meter = Meter(telemetry, ANYBODY, "alias", CallContext("req_1", dialect))
    meter.start("acme/chat", ASKED)
    return meter


def test_a_call_waits_until_its_first_token_and_works_until_its_end() -> None:
    telemetry = Telemetry()
    meter = started(telemetry)
    assert values(telemetry, "orchestrator.generations.waiting") == {("acme/chat",): 1}
    meter.first_token()
    assert values(telemetry, "orchestrator.generations.waiting") == {("acme/chat",): 0}
    assert values(telemetry, "orchestrator.generations.active") == {("acme/chat",): 1}
    meter.finished(GenerationFinished(Usage(3, 5)))
    meter.stop()
    meter.stop("too late")
    assert values(telemetry, "orchestrator.generations.active") == {("acme/chat",): 0}
    chat = ("chat", "operayde", "acme/chat")
    assert values(telemetry, "gen_ai.server.request.duration") == {(*chat, ""): 1}


@pytest.mark.parametrize("told", [False, True])
def test_a_first_token_that_nobody_saw_is_timed_only_where_the_engine_tells(told: bool) -> None:
    telemetry = Telemetry()
    meter = started(telemetry)
    meter.first_token(alone=False)
    assert values(telemetry, "orchestrator.generations.waiting") == {("acme/chat",): 0}
    at = time.time_ns() + 10**9
    timings = (EngineTimings(at, at, at, at),) if told else ()
    meter.finished(GenerationFinished(Usage(3, 5), timings))
    meter.stop()
    first = values(telemetry, "gen_ai.server.time_to_first_token")
    assert sum(first.values()) == int(told)
    assert meter.call.first_token_s is None


def test_a_reader_who_leaves_is_timed_until_the_engine_has_ended() -> None:
    telemetry = Telemetry()
    meter = started(telemetry)
    meter.stop("cancelled")
    assert values(telemetry, "orchestrator.generations.waiting") == {("acme/chat",): 0}
    assert values(telemetry, "orchestrator.cancel_to_engine") == {}
    meter.settled(Cost(Usage(3, 1), 4), "cancelled")
    assert values(telemetry, "orchestrator.cancel_to_engine") == {("acme/chat",): 1}
    assert values(telemetry, "orchestrator.generations") == {("acme/chat", "chat", "cancelled"): 1}
    assert values(telemetry, "orchestrator.tokens.wasted") == {("acme/chat", "cancelled"): 4}
    charged = {("acme/chat", "input", "cancelled"): 3, ("acme/chat", "output", "cancelled"): 1}
    assert values(telemetry, "orchestrator.tokens") == charged


def test_only_errors_of_the_engine_count_as_such() -> None:
    telemetry = Telemetry()
    for error in (
        ModelUnavailable("gone"),
        InvalidRequest("wrong"),
        KeyError("ours"),
        asyncio.CancelledError(),
    ):
        started(telemetry).failed(error)
    assert values(telemetry, "orchestrator.upstream.errors") == {
        ("acme/chat", "model_unavailable"): 1
    }
    words = {labels[-1] for labels in values(telemetry, "gen_ai.server.request.duration")}
    assert words == {"model_unavailable", "invalid_request", "internal_error", "cancelled"}
    assert values(telemetry, "orchestrator.generations.active") == {("acme/chat",): 0}


def test_what_fails_before_its_engine_is_asked_is_no_call_to_a_model() -> None:
    telemetry = Telemetry()
    meter = Meter(telemetry, ANYBODY, "alias", CallContext("req_1"))
    meter.failed(ModelUnavailable("not loaded"))
    meter.ended(Usage(0, 0), "failed")
    assert values(telemetry, "gen_ai.server.request.duration") == {}
    assert values(telemetry, "orchestrator.upstream.errors") == {}


def test_embeddings_have_no_first_token_and_make_none() -> None:
    telemetry = Telemetry()
    meter = Meter(telemetry, ANYBODY, "alias", CallContext("req_1", "embeddings"))
    meter.start("acme/embed", EmbeddingRequest("alias", ("a",)))
    assert values(telemetry, "orchestrator.generations.waiting") == {}
    meter.settled(Cost(Usage(7, 0)), "ok")
    embed = ("embeddings", "operayde", "acme/embed")
    assert values(telemetry, "gen_ai.client.token.usage") == {(*embed, "input"): 1}
    assert values(telemetry, "orchestrator.tokens") == {("acme/embed", "input", "ok"): 7}


def test_the_books_name_the_model_as_it_was_asked_for() -> None:
    telemetry = Telemetry()
    meter = started(telemetry, "responses")
    record = meter.entry("local", Cost(Usage(3, 5)), "ok")
    assert (record.model, record.dialect, record.first_token_s) == ("alias", "responses", None)
    assert meter.entry("local", Cost(Usage(3, 6)), "ok").record_id == record.record_id
