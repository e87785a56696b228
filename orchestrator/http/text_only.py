"""Handles pictures, sound and files for models that read text only."""

from __future__ import annotations

from orchestrator.core.errors import InvalidRequest
from orchestrator.http.bodies import shown

_MAX_SHOWN = 64


class NotText(InvalidRequest):
    """A part of a turn that the model cannot read."""

    def __init__(self, where: str, kind: object, model: str = "") -> None:
        what = "empty" if kind is None else f"of type {shown(kind)}"
        reader = f"the model `{model}`" if model else "this model"
        super().__init__(f"`{where}` is {what}; {reader} reads text only.", param=where)
        self._where, self._kind = where, kind

    def of(self, model: str) -> NotText:
        """The same error, with the name of the requested model."""
        return NotText(self._where, self._kind, model)


def instead_of(kind: object) -> str:
    """The text that replaces a part of type `kind` in a tool's result.

    A refusal would end an agent's session, because the agent sends the result again with every
    turn.
    """
    word = kind if isinstance(kind, str) else "part"
    return f"[{word[:_MAX_SHOWN]} left out: this model reads text only]"
