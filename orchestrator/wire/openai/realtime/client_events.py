"""What clients send: events as structs, or an error that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from orchestrator.http.bodies import BodyReader, shown
from orchestrator.wire.openai.realtime.faults import INVALID_EVENT, invalid


class ContentPart(msgspec.Struct):
    """A part of a message."""

    type: str
    text: str | None = None


class ItemBody(msgspec.Struct):
    """An item of a conversation; which members count depends on its type."""

    type: str
    id: str | None = None
    role: str | None = None
    content: list[ContentPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | None = None


class ToolBody(msgspec.Struct):
    """A tool; only functions can be offered."""

    type: str = "function"
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ReasoningBody(msgspec.Struct):
    """How much a model is to think."""

    effort: str | None = None


class Options(msgspec.Struct, kw_only=True):
    """How answers are made, in the words of both dialects. What is not sent is not changed."""

    instructions: str | UnsetType | None = UNSET
    tools: list[ToolBody] | UnsetType | None = UNSET
    tool_choice: str | dict[str, Any] | UnsetType | None = UNSET
    parallel_tool_calls: bool | UnsetType | None = UNSET
    reasoning: ReasoningBody | UnsetType | None = UNSET
    truncation: str | dict[str, Any] | UnsetType | None = UNSET
    prompt: dict[str, Any] | None = None
    temperature: float | UnsetType | None = UNSET
    output_modalities: list[str] | UnsetType | None = UNSET
    max_output_tokens: int | str | UnsetType | None = UNSET
    modalities: list[str] | UnsetType | None = UNSET
    max_response_output_tokens: int | str | UnsetType | None = UNSET
    # Of audio, and without effect on text. They tell the beta dialect from the other.
    voice: Any = UNSET
    input_audio_format: Any = UNSET
    output_audio_format: Any = UNSET
    input_audio_transcription: Any = UNSET
    turn_detection: Any = UNSET


class SessionBody(Options, kw_only=True):
    """The session as a client wants it."""

    type: str | None = None
    model: str | None = None


class ResponseBody(Options, kw_only=True):
    """One response as a client wants it."""

    conversation: str | None = None
    input: list[ItemBody] | None = None
    metadata: dict[str, str] | None = None


class SessionUpdate(msgspec.Struct):
    """`session.update`."""

    session: SessionBody


class ItemCreate(msgspec.Struct):
    """`conversation.item.create`."""

    item: ItemBody
    previous_item_id: str | None = None


class ItemRetrieve(msgspec.Struct):
    """`conversation.item.retrieve`."""

    item_id: str


class ItemDelete(msgspec.Struct):
    """`conversation.item.delete`."""

    item_id: str


class ItemTruncate(msgspec.Struct):
    """`conversation.item.truncate`."""

    item_id: str


class ResponseCreate(msgspec.Struct):
    """`response.create`."""

    response: ResponseBody | None = None


class ResponseCancel(msgspec.Struct):
    """`response.cancel`."""

    response_id: str | None = None


class AudioEvent(msgspec.Struct):
    """Any event that is about audio alone."""

    type: str


Body = (
    SessionUpdate
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
    | AudioEvent
)

_READERS: Mapping[str, BodyReader[Any]] = {
    "session.update": BodyReader(SessionUpdate),
    "conversation.item.create": BodyReader(ItemCreate),
    "conversation.item.retrieve": BodyReader(ItemRetrieve),
    "conversation.item.delete": BodyReader(ItemDelete),
    "conversation.item.truncate": BodyReader(ItemTruncate),
    "response.create": BodyReader(ResponseCreate),
    "response.cancel": BodyReader(ResponseCancel),
    "input_audio_buffer.append": BodyReader(AudioEvent),
    "input_audio_buffer.commit": BodyReader(AudioEvent),
    "input_audio_buffer.clear": BodyReader(AudioEvent),
    "output_audio_buffer.clear": BodyReader(AudioEvent),
}


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every event has, and the whole of it. `event_id` is the client's own, if it sent one."""

    type: object
    event_id: str | None
    raw: bytes

    def open(self) -> Body:
        """The checked event. Raises: InvalidRequest."""
        if not isinstance(self.type, str):
            raise invalid("`type` is required, and must be a string.", "type", INVALID_EVENT)
        reader = _READERS.get(self.type)
        if reader is None:
            known = ", ".join(f"`{name}`" for name in _READERS)
            raise invalid(
                f"There is no client event {shown(self.type)}; there are {known}.", "type"
            )
        body: Body = reader.read(self.raw)
        return body


def read_envelope(raw: bytes) -> Envelope:
    """As much of an event as an error about it needs. Raises: InvalidRequest."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        told = str(error).rstrip(".")
        raise invalid(f"The event is not valid JSON: {told}.", code=INVALID_EVENT) from error
    except RecursionError as error:
        raise invalid("The event is nested too deeply.", code=INVALID_EVENT) from error
    if not isinstance(document, dict):
        raise invalid("The event must be a JSON object.", code=INVALID_EVENT)
    event_id = document.get("event_id")
    return Envelope(document.get("type"), event_id if isinstance(event_id, str) else None, raw)
