"""The items of a session in their order."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.wire.openai.realtime.conversation import Bounds, Conversation
from orchestrator.wire.openai.realtime.items import CallItem, OutputItem, Status, TextItem


def text(item_id: str, words: str = "Hi", status: Status = "completed") -> TextItem:
    return TextItem(item_id, "user", (words,), status)


@pytest.fixture
def conversation() -> Conversation:
    made = Conversation(Bounds(items=5, bytes=20))
    made.create(text("a"), None)
    made.create(text("b"), None)
    return made


def ids(conversation: Conversation) -> list[str]:
    return [item.id for item in conversation.items]


@pytest.mark.parametrize(
    ("after", "previous", "order"),
    [(None, "b", "abx"), ("root", None, "xab"), ("a", "a", "axb"), ("b", "b", "abx")],
)
def test_an_item_goes_where_it_is_wanted(
    conversation: Conversation, after: str | None, previous: str | None, order: str
) -> None:
    assert conversation.create(text("x"), after) == previous
    assert ids(conversation) == list(order)


def code_of(conversation: Conversation, item: TextItem | OutputItem, after: str | None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        conversation.create(item, after)
    return caught.value.detail_reason


def test_what_cannot_be_added_changes_nothing(conversation: Conversation) -> None:
    duplicate = code_of(conversation, text("a"), None)
    assert duplicate == "item_create_duplicate_item_id"
    lost = code_of(conversation, text("x"), "nowhere")
    assert lost == "item_create_invalid_previous_item_id"
    orphan = code_of(conversation, OutputItem("x", "c", "1"), None)
    assert orphan == "invalid_tool_call_id"
    assert ids(conversation) == ["a", "b"]


def test_an_output_answers_a_call_of_the_conversation(conversation: Conversation) -> None:
    conversation.create(CallItem("c", "call_1", "f", "{}"), None)
    assert conversation.create(OutputItem("d", "call_1", "1"), None) == "c"


def test_there_are_bounds_in_items_and_in_bytes(conversation: Conversation) -> None:
    assert code_of(conversation, text("x", "y" * 17), None) == "conversation_full"
    for name in "cde":
        conversation.create(text(name), None)
    assert code_of(conversation, text("x"), None) == "conversation_full"
    with pytest.raises(InvalidRequest, match="5 items"):
        conversation.check_room()
    conversation.delete("c")
    conversation.create(text("x"), None)


def test_deleting_gives_the_bytes_back(conversation: Conversation) -> None:
    conversation.create(text("c", "y" * 16), None)
    assert code_of(conversation, text("x"), None) == "conversation_full"
    conversation.delete("c")
    conversation.create(text("x", "y" * 16), None)


def test_items_that_are_not_there_are_told_by_what_was_to_be_done(
    conversation: Conversation,
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        conversation.get("x")
    assert caught.value.detail_reason == "item_retrieve_invalid_item_id"
    with pytest.raises(InvalidRequest) as caught:
        conversation.delete("x")
    assert caught.value.detail_reason == "item_delete_invalid_item_id"


def test_an_item_in_progress_is_not_told_to_models(conversation: Conversation) -> None:
    assert conversation.append(text("x", "", "in_progress")) == "b"
    assert ids(conversation) == ["a", "b"]
    assert conversation.put(text("x", "done")) == "b"
    assert ids(conversation) == ["a", "b", "x"]


def test_an_item_that_was_deleted_meanwhile_does_not_come_back(conversation: Conversation) -> None:
    conversation.append(text("x", "", "in_progress"))
    conversation.delete("x")
    assert conversation.put(text("x", "done")) is None
    assert ids(conversation) == ["a", "b"]
