"""A stored response as a value: JSON objects of the Responses API, and its last event."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson
from pydantic_core import to_json

Item = dict[str, Any]
"""An item of the Responses API: a message, a call, its output, reasoning."""

_ID_CHARACTERS = 26


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A stored response. `body` is the Response object, `items` are its input items."""

    tenant_id: str
    body: Mapping[str, Any] = field(repr=False)
    items: Sequence[Item] = field(default_factory=tuple, repr=False)

    @property
    def id(self) -> str:
        """The response's id."""
        found: str = self.body["id"]
        return found

    @property
    def running(self) -> bool:
        """Whether it is not finished."""
        return self.body["status"] in ("queued", "in_progress")


def item_id(prefix: str, response_id: str, number: int) -> str:
    """Returns the id of item `number` of a response; `response_of` does the reverse."""
    return f"{prefix}_{response_id.rpartition('_')[2]}{number:04x}"


def response_of(given: str) -> str:
    """Returns the id of the response that an item with that id would belong to."""
    return "resp_" + given.rpartition("_")[2][:_ID_CHARACTERS]


def failed(body: Mapping[str, Any], code: str, message: str) -> dict[str, Any]:
    """Returns `body` of a response that ended with an error."""
    return {**body, "status": "failed", "error": {"code": code, "message": message}}


def cancelled(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `body` of a response that its owner stopped."""
    return {**body, "status": "cancelled"}


def lifecycle_frame(kind: str, number: int, body: Mapping[str, Any]) -> bytes:
    """Returns the event `kind` with the response in it. ASCII, so that no character is split."""
    event = {"type": kind, "sequence_number": number, "response": body}
    text = json.dumps(event, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode("ascii")


def frames_in(text: str) -> list[bytes]:
    """Splits a stored text into events: each ends in an empty line, and contains none."""
    return [f"{frame}\n\n".encode("ascii") for frame in text.split("\n\n")[:-1]]


def as_json(value: object) -> bytes:
    """Returns JSON in which integers may have any size: callers write such into schemas.

    Raises: ValueError for what is nested more than 254 deep.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return to_json(value, inf_nan_mode="null")


def as_text(value: object) -> str:
    """Returns JSON text as it is stored."""
    return as_json(value).decode()


def from_text(text: str) -> Any:
    """Returns what `as_text` made a text of. orjson would round large integers."""
    return msgspec.json.decode(text)
