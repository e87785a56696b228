"""Errors inside a session: made, and written down as its events tell them."""

from __future__ import annotations

from typing import Any

from orchestrator.core.errors import GatewayError, InvalidRequest
from orchestrator.http.errors import error_members
from orchestrator.http.field_names import in_words_of

INVALID_EVENT = "invalid_event"
INVALID_VALUE = "invalid_value"


def invalid(message: str, param: str | None = None, code: str = INVALID_VALUE) -> InvalidRequest:
    """An error of the client's event."""
    return InvalidRequest(message, param=param, reason=code)


def no_audio(what: str, param: str | None) -> InvalidRequest:
    """What is told to whoever wants to speak or to listen."""
    return invalid(
        f"{what} needs audio, which is not available on this appliance yet; text is.", param
    )


def error_object(error: GatewayError, event_id: str | None = None) -> dict[str, Any]:
    """The `error` of an event of that name; `event_id` is the client's event that caused it."""
    told = in_words_of("realtime", error)
    members = error_members(told, "platform", "")["error"]
    code = members["code"]
    return {
        "type": members["type"] if error.status < 500 else "server_error",
        # Its general word says less than OpenAI's.
        "code": INVALID_VALUE if code == InvalidRequest.reason else code,
        "message": members["message"],
        "param": members["param"],
        "event_id": event_id,
    }
