"""Pictures, sound and files: what a model that reads text is shown, or told, in place of them."""

from __future__ import annotations

from orchestrator.core.errors import InvalidRequest
from orchestrator.http.bodies import shown

_MAX_SHOWN = 64


class NotText(InvalidRequest):
    """A part of a turn that the model cannot read. `of` says which model that is."""

    def __init__(self, where: str, kind: object, model: str = "") -> None:
        what = "empty" if kind is None else f"of type {shown(kind)}"
        reader = f"the model `{model}`" if model else "this model"
        super().__init__(f"`{where}` is {what}; {reader} reads text only.", param=where)
        self._where, self._kind = where, kind

    def of(self, model: str) -> NotText:
        """The same, with the name of the model that was asked for."""
        return NotText(self._where, self._kind, model)


def instead_of(kind: object) -> str:
    """What stands for a part of that type in a tool's result, where the part is no text.

    A result that was refused for it would end an agent's session, which sends it again with every
    turn.
    """
    word = kind if isinstance(kind, str) else "part"
    return f"[{word[:_MAX_SHOWN]} left out: this model reads text only]"
