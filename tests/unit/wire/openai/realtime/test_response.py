"""One response: which events a generation brings about, and what stays in the conversation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import RateLimited, UpstreamFailed
from orchestrator.core.events import (
    ChoiceFinished,
    FinishReason,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartKind,
    PartStarted,
    Usage,
)
from orchestrator.core.messages import Part, ReasoningPart, TextPart, ToolCallPart
from orchestrator.wire.openai.realtime.config import Config
from orchestrator.wire.openai.realtime.conversation import Bounds, Conversation
from orchestrator.wire.openai.realtime.items import Dialect, TextItem
from orchestrator.wire.openai.realtime.response import Response, rate_limits, usage_object
from tests.unit.wire.openai.realtime.client import types

STARTED = GenerationStarted("gen-1", "acme/chat", 1, 9)
TEXT: tuple[GenerationEvent, ...] = (
    PartStarted(0, "text"),
    PartDelta(0, "text", "Hello"),
    PartDelta(0, "text", " there"),
    PartFinished(0, TextPart("Hello there")),
)
CALL: tuple[GenerationEvent, ...] = (
    PartStarted(0, "tool_call", "call_1", "clock"),
    PartDelta(0, "tool_call", '{"at":'),
    PartDelta(0, "tool_call", "1}"),
    PartFinished(0, ToolCallPart("call_1", "clock", '{"at":1}')),
)
THOUGHT: tuple[GenerationEvent, ...] = (
    PartStarted(0, "reasoning"),
    PartDelta(0, "reasoning", "Hm."),
    PartFinished(0, ReasoningPart("Hm.")),
)


def ended(reason: FinishReason = "stop") -> tuple[GenerationEvent, ...]:
    return ChoiceFinished(0, reason), GenerationFinished(Usage(9, 2, 4, 1))


def conversation() -> Conversation:
    made = Conversation(Bounds(100, 10_000))
    made.create(TextItem("asked", "user", ("Hi",)), None)
    return made


def written(
    *events: GenerationEvent, dialect: Dialect = "ga", to: Conversation | None = None
) -> list[dict[str, Any]]:
    response = Response(dialect, Config(), to, {"topic": "tests"})
    return [made for event in (STARTED, *events) for made in response.event(event)]


def test_a_text_in_the_ga_dialect() -> None:
    kept = conversation()
    events = written(*TEXT, *ended(), to=kept)
    assert types(events) == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    response = events[-1]["response"]
    assert (response["status"], response["status_details"]) == ("completed", None)
    assert response["output"] == [events[-2]["item"]]
    assert response["output"][0]["content"] == [{"type": "output_text", "text": "Hello there"}]
    assert response["metadata"] == {"topic": "tests"}
    assert kept.items[1] == TextItem(events[1]["item"]["id"], "assistant", ("Hello there",))
    assert events[2]["previous_item_id"] == events[8]["previous_item_id"] == "asked"


def test_a_text_in_the_beta_dialect() -> None:
    events = written(*TEXT, *ended(), dialect="beta", to=conversation())
    assert types(events) == [
        "response.created",
        "response.output_item.added",
        "conversation.item.created",
        "response.content_part.added",
        "response.text.delta",
        "response.text.delta",
        "response.text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert events[-1]["response"]["modalities"] == ["text"]
    assert events[-1]["response"]["output"][0]["content"][0]["type"] == "text"


@pytest.mark.parametrize("dialect", ["ga", "beta"])
def test_a_text_and_a_call_are_two_items(dialect: Dialect) -> None:
    kept = conversation()
    events = written(*TEXT, *CALL, *ended("tool_calls"), dialect=dialect, to=kept)
    arguments = [event for event in events if "function_call_arguments" in event["type"]]
    assert [event.get("delta") for event in arguments] == ['{"at":', "1}", None]
    assert {event["output_index"] for event in arguments} == {1}
    assert {event["call_id"] for event in arguments} == {"call_1"}
    assert arguments[-1]["arguments"] == '{"at":1}'
    assert ("name" in arguments[-1]) == (dialect == "ga")
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]
    assert {item["status"] for item in output} == {"completed"}
    assert len(kept.items) == 3


def test_thoughts_are_no_items() -> None:
    assert types(written(*THOUGHT, *TEXT, *ended())) == types(written(*TEXT, *ended()))


@pytest.mark.parametrize(
    ("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_a_cut_answer_is_incomplete_and_so_is_its_item(reason: FinishReason, told: str) -> None:
    events = written(*TEXT, *ended(reason))
    response = events[-1]["response"]
    assert response["status"] == "incomplete"
    assert response["status_details"] == {"type": "incomplete", "reason": told}
    assert response["output"][0]["status"] == "incomplete"


def test_an_answer_outside_the_conversation_leaves_nothing_in_it() -> None:
    events = written(*TEXT, *ended())
    assert not [event for event in events if event["type"].startswith("conversation.")]
    assert events[-1]["response"]["conversation_id"] is None


def test_an_answer_without_text_is_complete_and_empty() -> None:
    events = written(*ended())
    assert types(events) == ["response.created", "response.done"]
    assert events[-1]["response"]["output"] == []


def test_what_was_written_before_a_cancel_is_kept_as_incomplete() -> None:
    kept = conversation()
    response = Response("ga", Config(), kept, None)
    for event in (STARTED, *TEXT[:2]):
        list(response.event(event))
    events = list(response.finish(cancelled=True))
    assert types(events)[-2:] == ["response.output_item.done", "response.done"]
    done = events[-1]["response"]
    assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert done["output"][0]["status"] == "incomplete"
    assert kept.items[1] == TextItem(done["output"][0]["id"], "assistant", ("Hello",), "incomplete")


def test_a_failure_closes_what_is_open_and_tells_why() -> None:
    response = Response("ga", Config(), None, None)
    for event in (STARTED, *TEXT[:2]):
        list(response.event(event))
    events = list(response.finish(error=UpstreamFailed("The engine failed.")))
    done = events[-1]["response"]
    assert done["status"] == "failed"
    assert done["status_details"] == {
        "type": "failed",
        "error": {
            "type": "server_error",
            "code": "upstream_error",
            "message": "The engine failed.",
        },
    }


def test_a_response_that_fails_before_it_began_begins_all_the_same() -> None:
    response = Response("ga", Config(), None, None)
    events = list(response.finish(error=RateLimited("Too many.")))
    assert types(events) == ["response.created", "response.done"]
    assert events[1]["response"]["status_details"]["error"]["code"] == "rate_limit_exceeded"


@st.composite
def generations(draw: st.DrawFn) -> list[GenerationEvent]:
    """Any parts in any order, each in any pieces."""
    events: list[GenerationEvent] = [STARTED]
    kinds: st.SearchStrategy[PartKind] = st.sampled_from(("text", "reasoning", "tool_call"))
    for index, kind in enumerate(draw(st.lists(kinds, max_size=5))):
        pieces = draw(st.lists(st.text(min_size=1, max_size=5), max_size=5))
        whole = "".join(pieces)
        parts: dict[PartKind, Part] = {
            "text": TextPart(whole),
            "reasoning": ReasoningPart(whole),
            "tool_call": ToolCallPart(f"call_{index}", "clock", whole),
        }
        events.append(PartStarted(0, kind, f"call_{index}", "clock"))
        events += [PartDelta(0, kind, piece) for piece in pieces]
        events.append(PartFinished(0, parts[kind]))
    events.append(ChoiceFinished(0, draw(st.sampled_from(("stop", "length", "tool_calls")))))
    return events


@settings(deadline=None)
@given(generations(), st.sampled_from(("ga", "beta")), st.data())
def test_whatever_is_generated_and_wherever_it_is_cut_everything_is_closed(
    events: list[GenerationEvent], dialect: Dialect, data: st.DataObject
) -> None:
    kept = conversation()
    response = Response(dialect, Config(), kept, None)
    cut = data.draw(st.integers(0, len(events)))
    told = [made for event in events[:cut] for made in response.event(event)]
    told += response.finish(usage=Usage(9, 2), cancelled=cut < len(events))
    deltas: dict[str, str] = {}
    wholes: dict[str, str] = {}
    for event in told:
        if event["type"].endswith(".delta"):
            deltas[event["item_id"]] = deltas.get(event["item_id"], "") + event["delta"]
        elif event["type"].endswith(("text.done", "arguments.done")):
            wholes[event["item_id"]] = event["text"] if "text" in event else event["arguments"]
    assert {item: deltas.get(item, "") for item in wholes} == wholes
    added = [event["item"]["id"] for event in told if event["type"].endswith("output_item.added")]
    done = [event["item"] for event in told if event["type"].endswith("output_item.done")]
    assert [item["id"] for item in done] == added == list(wholes)
    assert told[-1]["response"]["output"] == done
    assert [item.id for item in kept.items[1:]] == added
    assert types(told).count("response.created") == types(told).count("response.done") == 1


def test_limits_are_shown_as_they_were_asked_for() -> None:
    for dialect in ("ga", "beta"):
        response = Response(dialect, Config(max_tokens=7), None, None)
        (created,) = response.create()
        assert created["response"]["max_output_tokens"] == 7


def test_usage_is_told_in_detail() -> None:
    told = usage_object(Usage(9, 5, 4, 3))
    assert (told["input_tokens"], told["output_tokens"], told["total_tokens"]) == (9, 5, 14)
    assert told["input_token_details"]["cached_tokens"] == 4
    assert told["output_token_details"]["text_tokens"] == 5


def test_rate_limits_come_from_the_headers_of_the_reply() -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1037",
        "x-op-route": "local",
    }
    assert rate_limits(headers, 1000.5)["rate_limits"] == [
        {"name": "requests", "limit": 60, "remaining": 59, "reset_seconds": 36.5}
    ]
    assert rate_limits({}, 0)["rate_limits"] == []
