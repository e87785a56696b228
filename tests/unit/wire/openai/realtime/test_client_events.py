"""Client events as they are read."""

from __future__ import annotations

import pytest
from msgspec import UNSET

from orchestrator.core.errors import InvalidRequest
from orchestrator.wire.openai.realtime.client_events import (
    AudioEvent,
    ItemCreate,
    ResponseCancel,
    SessionUpdate,
    read_envelope,
)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"5", b'"x"', b"\xff\xfe", b'{"a":"\\ud800"}', b"[" * 100_000]
)
def test_what_is_no_json_object_is_an_invalid_event(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_envelope(raw)
    assert caught.value.detail_reason == "invalid_event"
    assert caught.value.param is None


@pytest.mark.parametrize("raw", [b"{}", b'{"type": null}', b'{"type": 5, "event_id": "e"}'])
def test_an_event_needs_a_type(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_envelope(raw).open()
    assert (caught.value.detail_reason, caught.value.param) == ("invalid_event", "type")


def test_an_unknown_type_is_told_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match=r"`session\.update`") as caught:
        read_envelope(b'{"type": "session.destroy"}').open()
    assert '"session.destroy"' in caught.value.message
    assert caught.value.param == "type"


def test_the_clients_id_is_known_before_its_event_is_checked() -> None:
    assert read_envelope(b'{"type": "nonsense", "event_id": "evt-1"}').event_id == "evt-1"
    assert read_envelope(b'{"type": "nonsense", "event_id": 7}').event_id is None


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'{"type": "session.update"}', "session"),
        (b'{"type": "session.update", "session": []}', "session"),
        (b'{"type": "session.update", "session": {"tools": 5}}', "session.tools"),
        (b'{"type": "conversation.item.create", "item": {}}', "item.type"),
        (b'{"type": "conversation.item.delete"}', "item_id"),
        (b'{"type": "response.create", "response": {"metadata": {"a": 1}}}', None),
    ],
)
def test_a_wrong_member_is_named(raw: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_envelope(raw).open()
    if param is not None:
        assert caught.value.param == param


def test_what_is_not_sent_is_told_from_null() -> None:
    raw = b'{"type": "session.update", "session": {"instructions": null, "unknown": 1}}'
    body = read_envelope(raw).open()
    assert isinstance(body, SessionUpdate)
    assert body.session.instructions is None
    assert body.session.tools is UNSET


def test_events_become_structs_of_their_type() -> None:
    item = b'{"type": "conversation.item.create", "item": {"type": "message"}}'
    created = read_envelope(item).open()
    assert isinstance(created, ItemCreate)
    assert created.previous_item_id is None
    assert isinstance(read_envelope(b'{"type": "response.cancel"}').open(), ResponseCancel)
    audio = read_envelope(b'{"type": "input_audio_buffer.append", "audio": "AAAA"}').open()
    assert isinstance(audio, AudioEvent)
