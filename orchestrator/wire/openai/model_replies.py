"""The shapes of OpenAI's model replies, for `/openapi.json`."""

from __future__ import annotations

from typing import Literal

import msgspec

from orchestrator.http.error_replies import Seconds


class Model(msgspec.Struct, kw_only=True):
    """A model of the catalogue; from `task` on the members are the appliance's own."""

    id: str
    object: Literal["model"]
    created: Seconds
    owned_by: str
    task: Literal["generate", "embed"]
    ready: bool
    context_tokens: int


class ModelList(msgspec.Struct, kw_only=True):
    """Models that the key may use."""

    object: Literal["list"]
    data: list[Model]
