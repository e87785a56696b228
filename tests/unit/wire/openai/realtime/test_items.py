"""Items: read from events, written into them, and told to models."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Message, TextPart, ToolCallPart
from orchestrator.wire.openai.realtime.client_events import ItemBody
from orchestrator.wire.openai.realtime.items import (
    CallItem,
    Dialect,
    Item,
    OutputItem,
    TextItem,
    decode_item,
    item_object,
    messages_of,
)


def read(**members: Any) -> Item:
    return decode_item(msgspec.convert(members, ItemBody), "item")


def said(role: str, kind: str, **more: Any) -> Item:
    return read(type="message", role=role, content=[{"type": kind, "text": "Hi"}], **more)


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("user", "input_text"),
        ("user", "text"),
        ("system", "input_text"),
        ("assistant", "output_text"),
        ("assistant", "text"),
    ],
)
def test_messages_of_either_dialect_are_read(role: str, kind: str) -> None:
    item = said(role, kind, id="msg_1")
    assert item == TextItem("msg_1", role, ("Hi",))  # type: ignore[arg-type]


def test_an_item_without_an_id_gets_one() -> None:
    one, other = said("user", "input_text"), said("user", "input_text")
    assert one.id.startswith("item_")
    assert one.id != other.id


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"type": "message", "role": "tool", "content": []}, "item.role"),
        ({"type": "message", "content": []}, "item.role"),
        ({"type": "message", "role": "user"}, "item.content"),
        (
            {"type": "message", "role": "user", "content": [{"type": "output_text", "text": "x"}]},
            "item.content[0].type",
        ),
        (
            {"type": "message", "role": "user", "content": [{"type": "input_text"}]},
            "item.content[0].text",
        ),
        (
            {"type": "message", "role": "user", "content": [{"type": "input_image"}]},
            "item.content[0].type",
        ),
        ({"type": "function_call", "call_id": "c"}, "item.name"),
        ({"type": "function_call_output", "output": "x"}, "item.call_id"),
        ({"type": "function_call_output", "call_id": "c"}, "item.output"),
        ({"type": "mcp_call"}, "item.type"),
        ({"type": "item_reference", "id": "a"}, "item.type"),
        ({"type": "message", "role": "user", "content": [], "id": "a b"}, "item.id"),
        ({"type": "message", "role": "user", "content": [], "id": ""}, "item.id"),
        ({"type": "message", "role": "user", "content": [], "id": "x" * 65}, "item.id"),
    ],
)
def test_a_wrong_item_is_told_with_its_place(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**members)
    assert caught.value.param == param


@pytest.mark.parametrize("kind", ["input_audio", "output_audio", "audio"])
def test_audio_is_told_to_be_unavailable(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="audio, which is not available on this appliance yet"):
        said("user", kind)


@pytest.mark.parametrize(("dialect", "kind"), [("ga", "output_text"), ("beta", "text")])
def test_what_the_model_wrote_has_the_type_of_the_dialect(dialect: Dialect, kind: str) -> None:
    written = item_object(TextItem("i", "assistant", ("Hi",)), dialect)
    assert written["content"] == [{"type": kind, "text": "Hi"}]
    asked = item_object(TextItem("i", "user", ("Hi",)), dialect)
    assert asked["content"] == [{"type": "input_text", "text": "Hi"}]


def test_calls_and_their_outputs_are_written_whole() -> None:
    call = read(type="function_call", id="a", call_id="c", name="f", arguments="{}")
    assert item_object(call, "ga") == {
        "id": "a",
        "object": "realtime.item",
        "type": "function_call",
        "status": "completed",
        "call_id": "c",
        "name": "f",
        "arguments": "{}",
    }
    output = read(type="function_call_output", id="b", call_id="c", output="7")
    assert item_object(output, "beta")["output"] == "7"


def test_a_model_gets_calls_in_the_message_that_they_were_made_with() -> None:
    items = (
        TextItem("1", "user", ("What time", " is it?")),
        TextItem("2", "assistant", ("Let me see.",)),
        CallItem("3", "c1", "clock", "{}"),
        CallItem("4", "c2", "zone", "{}"),
        OutputItem("5", "c1", "12:00"),
        CallItem("6", "c3", "clock", "{}"),
    )
    assert messages_of("Be brief.", items) == (
        Message("system", (TextPart("Be brief."),)),
        Message("user", (TextPart("What time"), TextPart(" is it?"))),
        Message(
            "assistant",
            (
                TextPart("Let me see."),
                ToolCallPart("c1", "clock", "{}"),
                ToolCallPart("c2", "zone", "{}"),
            ),
        ),
        Message("tool", (TextPart("12:00"),), tool_call_id="c1"),
        Message("assistant", (ToolCallPart("c3", "clock", "{}"),)),
    )
    assert messages_of("", ()) == ()


def test_a_call_that_was_cut_is_not_told_to_models() -> None:
    cut = CallItem("1", "c", "clock", '{"zo', "incomplete")
    said = TextItem("2", "assistant", ("It is",), "incomplete")
    assert messages_of("", (cut, said)) == (Message("assistant", (TextPart("It is"),)),)


def test_sizes_are_of_bytes() -> None:
    assert TextItem("1", "user", ("é", "xy")).size == 4
    assert CallItem("1", "c", "f", "{}").size == 3
    assert OutputItem("1", "c", "12").size == 2
