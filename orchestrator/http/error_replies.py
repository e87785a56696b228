"""The shapes of error replies, for `/openapi.json`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Seconds = Annotated[int, msgspec.Meta(description="Unix seconds.")]


class Error(msgspec.Struct, kw_only=True):
    """An error in the flat form."""

    error: str
    code: str
    detail: str
    request_id: str
    param: str | msgspec.UnsetType = msgspec.UNSET


class LimitReached(msgspec.Struct, kw_only=True):
    """The limit that refused a request."""

    scope: Literal["key", "tenant"]
    kind: str
    limit: int
    remaining: int
    reset_at: int | None


class ErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong. Members beyond the first four are the appliance's own."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str
    reason: str | msgspec.UnsetType = msgspec.UNSET
    limit: LimitReached | msgspec.UnsetType | None = msgspec.UNSET


class ErrorReply(msgspec.Struct, kw_only=True):
    """An error in the nested form, which every OpenAI client reads."""

    error: ErrorDetail
    code: str
    detail: str
