"""OpenAI's responses: events to bytes, and the official client's view of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from orchestrator.core.errors import (
    GatewayError,
    InvalidRequest,
    ModelUnavailable,
    RateLimited,
)
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFinished,
    LikelyToken,
    PartDelta,
    PartFinished,
    PartStarted,
    TokenLogprob,
    Usage,
)
from orchestrator.core.messages import ReasoningPart, TextPart, ToolCallPart
from orchestrator.responses.values import StoredResponse, frames_in
from orchestrator.wire.openai.responses.encoder import ResponseEncoder, replayed
from orchestrator.wire.openai.responses.items import input_items, with_ids
from orchestrator.wire.openai.responses.reasoning import ReasoningSeal
from orchestrator.wire.openai.responses.replies import Response as Described
from orchestrator.wire.openai.responses.request import response_object
from orchestrator.wire.openai.responses.tools import read_tools
from tests.wire.generations import CALL, STARTED, TWO_CALLS
from tests.wire.golden import check
from tests.wire.harness import answer
from tests.wire.test_openai_responses_requests import CUSTOM, FUNCTION, ID, NAMESPACE, SEARCH, read

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
LOGPROBS = (
    TokenLogprob(7, b"\xe6\x9d", -0.5, (LikelyToken(7, b"\xe6\x9d", -0.5),)),
    TokenLogprob(8, b"\xb1", -0.25, ()),
)
STREAMS: dict[str, tuple[GenerationEvent, ...]] = {
    "text": answer("Your", " data", "\n\"stays\" \\ here: é 東 😀"),
    "nothing": (STARTED, ChoiceFinished(0, "stop"), GenerationFinished(Usage(9, 0, 4, 0))),
    "cut": (
        *answer("Your", " da")[:-2],
        ChoiceFinished(0, "length"),
        GenerationFinished(Usage(9, 2)),
    ),
    "filtered": (
        *answer("x")[:-2],
        ChoiceFinished(0, "content_filter"),
        GenerationFinished(Usage(9, 1)),
    ),
    "two calls": TWO_CALLS,
    "cut call": (
        STARTED,
        PartStarted(0, "tool_call", CALL.id, CALL.name),
        PartDelta(0, "tool_call", CALL.arguments[:5]),
        PartFinished(0, ToolCallPart(CALL.id, CALL.name, CALL.arguments[:5])),
        ChoiceFinished(0, "length"),
        GenerationFinished(Usage(9, 5)),
    ),
    "reasoning": (
        STARTED,
        PartStarted(0, "reasoning"),
        PartDelta(0, "reasoning", "hm"),
        PartFinished(0, ReasoningPart("hm")),
        PartStarted(0, "text"),
        PartDelta(0, "text", "Yes."),
        PartFinished(0, TextPart("Yes.")),
        ChoiceFinished(0, "stop"),
        GenerationFinished(Usage(9, 3, 2, 1)),
    ),
    "custom and namespace calls": (
        STARTED,
        PartStarted(0, "tool_call", "call_7", "apply_patch"),
        *(PartDelta(0, "tool_call", text) for text in ('{"input"', ': "*** \\', 'n\\u00', 'e9"}')),
        PartFinished(0, ToolCallPart("call_7", "apply_patch", '{"input": "*** \\n\\u00e9"}')),
        PartStarted(0, "tool_call", "call_8", "agents__spawn"),
        PartDelta(0, "tool_call", "{}"),
        PartFinished(0, ToolCallPart("call_8", "agents__spawn", "{}")),
        ChoiceFinished(0, "tool_calls"),
        GenerationFinished(Usage(9, 9)),
    ),
    "log probabilities": (
        STARTED,
        PartStarted(0, "text"),
        PartDelta(0, "text", "東", LOGPROBS),
        PartFinished(0, TextPart("東")),
        ChoiceFinished(0, "stop", None, (TokenLogprob(9, b"", -0.125),)),
        GenerationFinished(Usage(9, 3)),
    ),
}  # fmt: skip


def kept(**more: Any) -> StoredResponse:
    body = read({"tools": [FUNCTION, NAMESPACE, CUSTOM, SEARCH], **more})
    items = with_ids(input_items(body.input), ID)
    return StoredResponse("ten_1", response_object(body, ID, 1_700_000_000, stored=True), items)


SEAL = ReasoningSeal([b"pepper of the tests"], "ten_1", random=lambda count: b"r" * count)


def encoder(name: str = "text", **more: Any) -> ResponseEncoder:
    return ResponseEncoder(
        kept(**more),
        logprobs=name == "log probabilities",
        tools=read_tools([FUNCTION, NAMESPACE, CUSTOM, SEARCH]),
        seal=SEAL if name == "reasoning" else None,
        now=lambda: 1_700_000_002.9,
    )


def written(events: Sequence[GenerationEvent], encoder: ResponseEncoder) -> list[bytes]:
    return [frame for event in events for frame in encoder.event(event)]


def documents(frames: Sequence[bytes]) -> list[dict[str, Any]]:
    """The events in `frames`, each of which must be whole, numbered and ASCII."""
    found = []
    for frame in frames:
        head, line, *rest = frame.decode("ascii").split("\n")
        assert rest == ["", ""]
        assert line.startswith("data: ")
        document = json.loads(line.removeprefix("data: "))
        assert head == f"event: {document['type']}"
        found.append(document)
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    return found


def followed(frames: Sequence[bytes]) -> Any:
    """What the official client's own accumulation makes of the events, and that they fit it."""
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    for document in documents(frames):
        state.handle_event(EVENT.validate_python(document))
    return state._completed_response


@pytest.mark.parametrize("name", STREAMS)
def test_events_become_these_very_bytes(name: str) -> None:
    frames = written(STREAMS[name], encoder(name))
    check(f"responses/streams/{name.replace(' ', '_')}.sse", b"".join(frames))
    assert frames_in(b"".join(frames).decode()) == frames


@pytest.mark.parametrize("name", STREAMS)
def test_the_official_client_reads_every_event(name: str) -> None:
    response = followed(written(STREAMS[name], encoder(name)))
    if name in ("cut", "filtered", "cut call"):
        assert response is None
        return
    text = "".join(
        event.text
        for event in STREAMS[name]
        if isinstance(event, PartDelta) and event.kind == "text"
    )
    assert response.output_text == text


@pytest.mark.parametrize("name", STREAMS)
def test_the_whole_answer_is_the_last_event(name: str) -> None:
    made = encoder(name)
    last = documents(written(STREAMS[name], made))[-1]
    whole = json.loads(made.result(None))  # type: ignore[arg-type]  # not looked at
    assert last["response"] == whole == made.kept().body
    Response.model_validate(whole)
    told = msgspec.convert(whole, Described)
    assert set(msgspec.structs.asdict(told)) == set(whole)
    assert "response." + whole["status"] == last["type"]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stored_response_is_told_again_as_it_was(name: str) -> None:
    made = encoder(name)
    frames = documents(written(STREAMS[name], made))
    again = documents(replayed(made.kept().body))

    def without_deltas(events: list[dict[str, Any]]) -> list[Any]:
        kept = [event for event in events if "delta" not in event["type"]]
        return [{**event, "sequence_number": 0} for event in kept]

    assert without_deltas(again) == without_deltas(frames)
    for one in again:
        EVENT.validate_python(one)

    def said(events: list[dict[str, Any]]) -> str:
        return "".join(event.get("delta", "") for event in events)

    assert said(again) == said(frames)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelUnavailable("The engine went away."), "server_error"),
        (RateLimited("Too many."), "rate_limit_exceeded"),
        (InvalidRequest("Too long."), "invalid_prompt"),
    ],
)
@pytest.mark.parametrize("until", [1, 2, 4, 5])
def test_an_error_closes_the_open_item_and_is_told_in_the_response(
    error: GatewayError, code: str, until: int
) -> None:
    made = encoder()
    frames = written(STREAMS["text"][:until], made)
    told = made.fail(error)
    assert made.error({"error": "anything"}) == told
    events = documents([*frames, *told])
    assert events[-1]["type"] == "response.failed"
    response = Response.model_validate(events[-1]["response"])
    assert response.status == "failed"
    assert response.error is not None
    assert (response.error.code, response.error.message) == (code, error.message)
    opened = sum(event["type"] == "response.output_item.added" for event in events)
    closed = sum(event["type"] == "response.output_item.done" for event in events)
    assert opened == closed == len(response.output) == (until > 1)
    assert response.output_text == "".join(
        ["Your", " data", '\n"stays" \\ here: é 東 😀'][: max(0, until - 2)]
    )
    followed([*frames, *told])


def test_what_runs_in_the_background_waits_first() -> None:
    made = encoder(background=True)
    frames = [*made.queued(), *written(STREAMS["text"], made)]
    events = documents(frames)
    assert [event["type"] for event in events[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    assert [event["response"]["status"] for event in events[:3]] == [
        "queued",
        "queued",
        "in_progress",
    ]
    assert followed(frames).output_text


def test_what_could_not_be_stored_says_so() -> None:
    made = encoder()
    written(STREAMS["text"][:-1], made)
    made.conclude(Usage(9, 3))
    made.disown()
    (frame,) = made.event(STREAMS["text"][-1])
    assert documents_of(frame)["response"]["store"] is False


def documents_of(frame: bytes) -> dict[str, Any]:
    """The one event of `frame`."""
    document: dict[str, Any] = json.loads(frame.split(b"data: ")[1])
    return document


@given(
    texts=st.lists(st.text(min_size=1), max_size=8),
    arguments=st.lists(st.text(min_size=1), max_size=4),
    thoughts=st.lists(st.text(min_size=1), max_size=4),
)
def test_whatever_is_said_is_put_together_by_the_client(
    texts: list[str], arguments: list[str], thoughts: list[str]
) -> None:
    call = ToolCallPart("call_1", "weather", "".join(arguments))
    events: list[GenerationEvent] = [
        STARTED,
        PartStarted(0, "reasoning"),
        *(PartDelta(0, "reasoning", text) for text in thoughts),
        PartFinished(0, ReasoningPart("".join(thoughts))),
        PartStarted(0, "text"),
        *(PartDelta(0, "text", text) for text in texts),
        PartFinished(0, TextPart("".join(texts))),
        PartStarted(0, "tool_call", call.id, call.name),
        *(PartDelta(0, "tool_call", text) for text in arguments),
        PartFinished(0, call),
        ChoiceFinished(0, "tool_calls"),
        GenerationFinished(Usage(9, 3)),
    ]
    response = followed(written(events, encoder()))
    assert response.output_text == "".join(texts)
    assert response.output[0].content[0].text == "".join(thoughts)
    assert response.output[2].arguments == call.arguments
