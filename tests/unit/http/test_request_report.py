"""What requests tell: metrics, Server-Timing, the log, and spans with nothing secret in them."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator.core.errors import UpstreamFailed
from orchestrator.core.events import EngineTimings, GenerationFinished, Usage
from orchestrator.telemetry import names
from orchestrator.telemetry.process import Telemetry
from orchestrator.telemetry.tracing import Tracing
from tests.wire.harness import KEY, NARROW_KEY, Bench, answer, bench

SECRET = "the prompt nobody may read"
CHAT = {"model": "acme/chat", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5}
PATH = "/v1/chat/completions"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TIMINGS = (EngineTimings(1_000, 2_000_000, 5_000_000, 9_000_000),)


class Traced(Telemetry):
    """Telemetry whose spans stay in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.exporter = InMemorySpanExporter()
        self.tracing = self._tracing = Tracing(0, self.exporter)

    def spans(self) -> list[ReadableSpan]:
        """Everything that was sent so far."""
        self.tracing.flush()
        return list(self.exporter.get_finished_spans())


@asynccontextmanager
async def traced(folder: Path) -> AsyncIterator[tuple[Bench, Traced]]:
    telemetry = Traced()
    async with bench(folder, telemetry=telemetry) as service:
        events = answer("Hello", " there")
        finished = GenerationFinished(Usage(9, 2, cached_tokens=4), TIMINGS)
        service.backend.events = (*events[:-1], finished)
        yield service, telemetry


def values(telemetry: Telemetry, name: str) -> dict[tuple[str, ...], float]:
    family = next(one for one in telemetry.metrics.registry.collect() if one.spec.name == name)
    return {
        one.labels: float(sum(one.counts)) if one.counts else one.value for one in family.series
    }


async def settled(service: Bench) -> None:
    await service.gateway.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_counted_by_model_and_outcome(tmp_path: Path, stream: bool) -> None:
    async with traced(tmp_path) as (service, telemetry):
        await service.post(PATH, {**CHAT, "model": "gemma4:26b", "stream": stream})
        await settled(service)
        # An alias is counted as the model that it names.
        chat = ("chat", names.PROVIDER, "acme/chat")
        assert values(telemetry, "gen_ai.server.request.duration") == {(*chat, ""): 1}
        assert values(telemetry, "gen_ai.server.time_to_first_token") == {chat: 1}
        assert values(telemetry, "gen_ai.server.time_per_output_token") == {chat: 1}
        assert values(telemetry, "orchestrator.generations") == {("acme/chat", "chat", "ok"): 1}
        assert values(telemetry, "orchestrator.tokens")["acme/chat", "input", "ok"] == 3
        assert values(telemetry, "orchestrator.generations.active") == {("acme/chat",): 0}
        assert values(telemetry, "orchestrator.generations.waiting") == {("acme/chat",): 0}
        assert values(telemetry, "orchestrator.quota.reserved") == {("acme/chat",): 8}
        assert values(telemetry, "orchestrator.quota.settled") == {("acme/chat",): 5}
        assert set(values(telemetry, "orchestrator.engine.phase.duration")) == {
            ("acme/chat", "queue"),
            ("acme/chat", "prefill"),
            ("acme/chat", "decode"),
        }
        assert values(telemetry, "http.server.request.duration") == {("POST", PATH, "200"): 1}
        assert values(telemetry, "http.server.active_requests") == {(): 0}


async def test_refusals_are_counted_by_reason_and_callers_make_up_no_label(
    tmp_path: Path,
) -> None:
    async with traced(tmp_path) as (service, telemetry):
        await service.client.post(PATH, json=CHAT)
        await service.post(PATH, {**CHAT, "model": "acme/nothing"})
        await service.post(PATH, {**CHAT, "n": 0})
        await service.get("/made/up")
        await service.client.request("BREW", "/v1/models")
        narrow = {"authorization": f"Bearer {NARROW_KEY}"}
        await service.client.post(PATH, json=CHAT, headers=narrow)
        assert values(telemetry, "orchestrator.refusals") == {
            ("401", "missing_api_key"): 1,
            ("404", "model_not_found"): 1,
            ("400", "invalid_request"): 1,
            ("403", "policy_denied"): 1,
        }
        routes = values(telemetry, "http.server.request.duration")
        assert ("GET", "none", "404") in routes
        assert {labels[0] for labels in routes} == {"GET", "POST", "_OTHER"}
        assert values(telemetry, "gen_ai.server.request.duration") == {}


async def test_an_error_of_the_engine_is_counted_with_its_word(tmp_path: Path) -> None:
    async with traced(tmp_path) as (service, telemetry):
        service.backend.events, service.backend.error = (), UpstreamFailed("It broke.")
        assert (await service.post(PATH, CHAT)).status_code == 502
        await settled(service)
        assert values(telemetry, "orchestrator.upstream.errors") == {
            ("acme/chat", "upstream_error"): 1
        }
        chat = ("chat", names.PROVIDER, "acme/chat", "upstream_error")
        assert values(telemetry, "gen_ai.server.request.duration") == {chat: 1}
        assert values(telemetry, "orchestrator.generations.active") == {("acme/chat",): 0}


async def test_the_reply_in_one_piece_tells_its_stages(tmp_path: Path) -> None:
    async with traced(tmp_path) as (service, telemetry):
        told = (await service.post(PATH, CHAT)).headers["server-timing"]
        stages = [part.partition(";")[0] for part in told.split(", ")]
        assert stages == [
            "authenticate", "read", "policy", "route", "quota", "render",
            "queue", "prefill", "decode", "total",
        ]  # fmt: skip
        embedded = await service.post("/v1/embeddings", {"model": "acme/embed", "input": "a"})
        assert "engine;dur=" in embedded.headers["server-timing"]
        assert "server-timing" not in (await service.get("/v1/models")).headers
        streamed = await service.post(PATH, {**CHAT, "stream": True})
        assert "server-timing" not in streamed.headers
        telemetry.server_timing = False
        assert "server-timing" not in (await service.post(PATH, CHAT)).headers


@pytest.mark.parametrize("stream", [False, True])
async def test_one_trace_has_every_stage_and_nothing_secret(tmp_path: Path, stream: bool) -> None:
    async with traced(tmp_path) as (service, telemetry):
        headers = {"traceparent": PARENT, "x-request-id": "mine"}
        await service.post(PATH, {**CHAT, "stream": stream}, headers=headers)
        spans = telemetry.spans()
        by_name = {span.name: span for span in spans}
        assert [span.name for span in spans] == [
            f"POST {PATH}", "authenticate", "read", "policy", "route", "quota", "render", "quota",
            "chat acme/chat", "stream", "engine queue", "engine prefill", "engine decode",
        ]  # fmt: skip
        assert {span.context.trace_id for span in spans if span.context} == {int(PARENT[3:35], 16)}
        root = dict(by_name[f"POST {PATH}"].attributes or {})
        assert root[names.REQUEST_ID] == "mine"
        assert str(root[names.CALL_ID]).startswith("mine-req_")
        assert str(root[names.KEY_ID]).startswith("key_")
        assert dict(by_name["policy"].attributes or {})[names.POLICY_RULE] == "allow_all"
        model = dict(by_name["chat acme/chat"].attributes or {})
        assert model[names.REQUEST_MAX_TOKENS] == 5
        assert model[names.FINISH_REASONS] == ("stop",)
        assert model[names.OUTPUT_TOKENS] == 2
        assert [event.name for event in by_name["chat acme/chat"].events] == ["first token", "end"]
        everything = " ".join(span.to_json() for span in spans)
        for secret in (SECRET, "Hello", KEY, KEY[-32:]):
            assert secret not in everything


async def test_a_key_that_is_named_for_it_has_its_content_in_spans(tmp_path: Path) -> None:
    async with traced(tmp_path) as (service, telemetry):
        await service.post(PATH, CHAT)
        key_id = str((telemetry.spans()[0].attributes or {})[names.KEY_ID])
        telemetry.exporter.clear()
        telemetry.content_keys = frozenset({key_id})
        await service.post(PATH, CHAT)
        (model,) = [span for span in telemetry.spans() if span.name == "chat acme/chat"]
        attributes: dict[str, Any] = dict(model.attributes or {})
        asked, answered = (
            json.loads(attributes[name]) for name in (names.INPUT_MESSAGES, names.OUTPUT_MESSAGES)
        )
        assert asked == [{"role": "user", "parts": [{"type": "text", "content": SECRET}]}]
        assert answered[0]["parts"] == [{"type": "text", "content": "Hello there"}]
        assert answered[0]["finish_reason"] == "stop"


async def test_a_refused_call_has_its_error_on_the_stage_that_refused(tmp_path: Path) -> None:
    async with traced(tmp_path) as (service, telemetry):
        headers = {"authorization": f"Bearer {NARROW_KEY}"}
        await service.client.post(PATH, json=CHAT, headers=headers)
        by_name = {span.name: dict(span.attributes or {}) for span in telemetry.spans()}
        assert by_name["policy"][names.ERROR_TYPE] == "policy_denied"
        assert by_name["policy"][names.POLICY_RULE] == "model_not_allowed"
        assert by_name[f"POST {PATH}"][names.ERROR_TYPE] == "policy_denied"
        assert "route" not in by_name


async def test_what_is_sampled_out_is_told_to_nobody(tmp_path: Path) -> None:
    async with traced(tmp_path) as (service, telemetry):
        reply = await service.post(PATH, CHAT, headers={"traceparent": f"{PARENT[:-1]}0"})
        assert reply.status_code == 200
        assert telemetry.spans() == []


async def test_probes_have_no_spans_and_no_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrator.requests")
    async with traced(tmp_path) as (service, telemetry):
        assert (await service.client.get("/health")).status_code == 200
        assert (await service.client.get("/v1/health")).status_code == 200
        assert telemetry.spans() == []
        assert caplog.messages == []


async def test_a_call_without_a_request_over_http_has_a_trace_of_its_own(tmp_path: Path) -> None:
    from orchestrator.core.context import CallContext
    from orchestrator.core.events import fold
    from orchestrator.core.request import GenerationRequest, TextPrompt
    from orchestrator.keys.principal import Principal

    async with traced(tmp_path) as (service, telemetry):
        anybody = Principal("key_1", "app", "ten_1", admin=False, allowed_models=("*",))
        request = GenerationRequest("acme/chat", TextPrompt("hello"))
        context = CallContext("req_1", "responses")
        generation = await service.gateway.generate(anybody, request, context)
        await fold(generation)
        await generation.aclose()
        names_ = [span.name for span in telemetry.spans()]
        # The call itself and, below it, what the engine was asked.
        assert names_.count("chat acme/chat") == 2
        telemetry.exporter.clear()
        with pytest.raises(Exception, match="does not exist"):
            await service.gateway.generate(anybody, replace(request, model="none"), context)
        assert [span.name for span in telemetry.spans()] == ["chat none"]
