"""The state of a session, without a socket."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Message, TextPart
from orchestrator.core.request import ChatPrompt
from orchestrator.wire.openai.realtime.client_events import ResponseCreate, read_envelope
from orchestrator.wire.openai.realtime.conversation import Bounds
from orchestrator.wire.openai.realtime.items import Dialect
from orchestrator.wire.openai.realtime.response import ServerEvent
from orchestrator.wire.openai.realtime.session import Plan, Session
from tests.unit.wire.openai.realtime.client import HELLO, types

CLOCK = {"type": "function", "name": "clock"}


def session(dialect: Dialect | None = None) -> Session:
    return Session("acme/chat", dialect, bounds=Bounds(100, 10_000), expires_at=7)


def take(made: Session, kind: str, **members: Any) -> list[ServerEvent]:
    return list(made.take(read_envelope(orjson.dumps({"type": kind, **members})).open()))


def plan(made: Session, **response: Any) -> Plan:
    body = read_envelope(orjson.dumps({"type": "response.create", "response": response})).open()
    assert isinstance(body, ResponseCreate)
    return made.plan(body)


def said(made: Session, *texts: str) -> None:
    for text in texts:
        content = [{"type": "input_text", "text": text}]
        take(made, "conversation.item.create", item={**HELLO, "id": text, "content": content})


def asked_of(made: Plan) -> list[str]:
    prompt = made.request().prompt
    assert isinstance(prompt, ChatPrompt)
    return [message.text for message in prompt.messages]


def test_a_session_is_announced_with_what_it_is() -> None:
    (created,) = session().opening()
    assert created["session"]["object"] == "realtime.session"
    assert created["session"]["expires_at"] == 7
    assert types(list(session("beta").opening())) == ["session.created", "conversation.created"]


def test_the_first_update_decides_the_dialect_for_good() -> None:
    made = session()
    (updated,) = take(made, "session.update", session={"modalities": ["text"]})
    assert updated["type"] == "session.updated"
    assert "output_modalities" not in updated["session"]
    take(made, "session.update", session={"type": "realtime", "output_modalities": ["text"]})
    created = take(made, "conversation.item.create", item=HELLO)
    assert types(created) == ["conversation.item.created"]


def test_an_update_that_shows_no_dialect_leaves_it_open() -> None:
    made = session()
    (updated,) = take(made, "session.update", session={"instructions": "Be brief."})
    assert {"modalities", "output_modalities"} <= set(updated["session"])
    take(made, "session.update", session={"modalities": ["text"]})
    assert made.dialect == "beta"


def test_a_client_that_shows_no_dialect_speaks_ga() -> None:
    made = session()
    created = take(made, "conversation.item.create", item=HELLO)
    assert types(created) == ["conversation.item.added", "conversation.item.done"]
    take(made, "session.update", session={"modalities": ["text"]})
    assert made.dialect == "ga"


def test_a_wrong_update_changes_nothing() -> None:
    made = session()
    with pytest.raises(InvalidRequest):
        take(made, "session.update", session={"instructions": "x", "modalities": ["audio"]})
    (updated,) = take(made, "session.update", session={"temperature": 1})
    assert updated["session"]["instructions"] == ""


@pytest.mark.parametrize(
    ("update", "param"),
    [({"model": "acme/other"}, "session.model"), ({"type": "transcription"}, "session.type")],
)
def test_model_and_kind_of_a_session_stay(update: dict[str, Any], param: str) -> None:
    made = session()
    take(made, "session.update", session={"type": "realtime", "model": "acme/chat"})
    with pytest.raises(InvalidRequest) as caught:
        take(made, "session.update", session=update)
    assert caught.value.param == param


def test_items_are_retrieved_and_deleted() -> None:
    made = session()
    said(made, "one", "two")
    (retrieved,) = take(made, "conversation.item.retrieve", item_id="one")
    assert retrieved["item"]["content"][0]["text"] == "one"
    (deleted,) = take(made, "conversation.item.delete", item_id="one")
    assert deleted == {"type": "conversation.item.deleted", "item_id": "one"}
    assert [item.id for item in made.conversation.items] == ["two"]


def test_a_text_cannot_be_truncated() -> None:
    made = session()
    said(made, "one")
    with pytest.raises(InvalidRequest, match="no audio"):
        take(
            made,
            "conversation.item.truncate",
            item_id="one",
            content_index=0,
            audio_end_ms=5,
        )


@pytest.mark.parametrize(
    "kind",
    [
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "output_audio_buffer.clear",
    ],
)
def test_audio_is_told_to_be_unavailable(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="not available on this appliance yet"):
        take(session(), kind)


def test_a_response_is_made_of_the_conversation_and_the_settings() -> None:
    made = session()
    said(made, "Hi")
    update = {
        "instructions": "Be brief.",
        "tools": [CLOCK],
        "temperature": 0.5,
        "max_output_tokens": 9,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low"},
    }
    take(made, "session.update", session=update)
    request = plan(made).request()
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.messages == (
        Message("system", (TextPart("Be brief."),)),
        Message("user", (TextPart("Hi"),)),
    )
    assert [tool.name for tool in request.prompt.tools] == ["clock"]
    assert request.sampling.temperature == 0.5
    assert request.max_tokens == 9
    assert request.reasoning == "low"
    assert not request.parallel_tool_calls


def test_a_response_may_have_settings_of_its_own() -> None:
    made = session()
    said(made, "Hi")
    take(made, "session.update", session={"instructions": "Be brief.", "tools": [CLOCK]})
    own = plan(made, instructions="Be long.", tool_choice="none", max_output_tokens=3)
    assert asked_of(own) == ["Be long.", "Hi"]
    request = own.request()
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.tools == ()
    assert request.max_tokens == 3
    assert asked_of(plan(made)) == ["Be brief.", "Hi"]


def test_a_response_may_have_items_of_its_own_and_refer_to_others() -> None:
    made = session()
    said(made, "one", "two")
    own = [{"type": "item_reference", "id": "two"}, HELLO]
    beside = plan(made, conversation="none", input=own)
    assert asked_of(beside) == ["two", "Hi"]
    assert not beside.response.is_default
    assert plan(made, input=[HELLO]).response.is_default
    assert len(made.conversation.items) == 2


@pytest.mark.parametrize(
    ("response", "param"),
    [
        ({"conversation": "other"}, "response.conversation"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_id"),
        ({"input": [{"type": "message"}]}, "response.input[0].role"),
        ({"output_modalities": ["audio"]}, "response.output_modalities"),
        ({"temperature": -1}, "response.temperature"),
        ({"input": []}, None),
    ],
)
def test_a_wrong_response_is_told(response: dict[str, Any], param: str | None) -> None:
    made = session()
    said(made, "one")
    with pytest.raises(InvalidRequest) as caught:
        plan(made, **response)
    assert caught.value.param == param


def test_old_items_are_left_out_a_quarter_at_a_time() -> None:
    made = session()
    said(made, *"abcdefgh")
    shorter: Plan | None = plan(made, instructions="Be brief.")
    seen = []
    while shorter is not None:
        seen.append("".join(asked_of(shorter)[1:]))
        shorter = shorter.shorter()
    assert seen == ["abcdefgh", "cdefgh", "defgh", "efgh", "fgh", "gh", "h"]
    assert plan(made, truncation="disabled").shorter() is None


def test_no_output_is_left_without_its_call() -> None:
    made = session()
    said(made, "a")
    call = {"type": "function_call", "call_id": "c", "name": "clock"}
    take(made, "conversation.item.create", item=call)
    output = {"type": "function_call_output", "call_id": "c", "output": "12:00"}
    take(made, "conversation.item.create", item=output)
    said(made, "b")
    first = plan(made).shorter()
    assert first is not None
    assert asked_of(first) == ["", "12:00", "b"]
    second = first.shorter()
    assert second is not None
    assert asked_of(second) == ["b"]
