"""Rearranges conversations so that a model's chat template accepts them.

Agents put system messages anywhere, but some templates accept only one at the beginning, or drop
the others silently. What a template accepts is tried once, when a conversation needs it: a list of
templates would become outdated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from orchestrator.core.messages import Message, Part, TextPart
from orchestrator.rendering.chat_template import ChatTemplate

_INSTRUCTIONS = ("system", "developer")
_GAP = TextPart("\n\n")
_CALL = {"id": "call00001", "type": "function", "function": {"name": "probe", "arguments": {}}}


class Turns:
    """One per template. Thread-safe: a second try gives the same result."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._taken: dict[tuple[str, ...], bool] = {}

    def placed(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Moves system messages to where the template accepts them.

        Leading ones are merged. A later one is added to the end of the user message before it, or
        to the beginning of the user message after it. If neither is adjacent, it becomes a user
        message. A tool's result stays next to its call.
        """
        if not any(message.role in _INSTRUCTIONS for message in islice(messages, 1, None)):
            return messages
        lead = 0
        while lead < len(messages) and messages[lead].role in _INSTRUCTIONS:
            lead += 1
        leading, rest = messages[:lead], messages[lead:]
        if lead > 1 and not self._takes(*(self._role(one) for one in leading[:3]), "user"):
            leading = (_merged(leading),)
        late = {self._role(message) for message in rest if message.role in _INSTRUCTIONS}
        if all(self._takes_late(role) for role in late):
            return (*leading, *rest)
        return (*leading, *self._moved(rest))

    @property
    def takes_text_arguments(self) -> bool:
        """Whether the arguments of a call may be a text instead of a JSON object."""
        return self._takes("user", "call", "tool")

    def _role(self, message: Message) -> str:
        return "system" if not self._template.knows_developer else message.role

    def _takes_late(self, role: str) -> bool:
        return self._takes("system", "user", role) and self._takes(
            "system", "user", "assistant", role, "user"
        )

    def _takes(self, *roles: str) -> bool:
        """Whether the template renders every message of a conversation with these roles."""
        if (known := self._taken.get(roles)) is None:
            words = [f"probe{index}" for index in range(len(roles))]
            asked = [_probe(role, word) for role, word in zip(roles, words, strict=True)]
            text = self._template.attempt(asked)
            known = self._taken[roles] = text is not None and all(word in text for word in words)
        return known

    def _moved(self, rest: Sequence[Message]) -> list[Message]:
        """Moves the texts of the system messages in `rest` into other messages."""
        placed: list[Message] = []
        waiting: list[Part] = []
        for message in rest:
            if message.role in _INSTRUCTIONS:
                waiting += (_GAP, *message.parts)
                continue
            next_one = message
            if waiting and message.role != "tool":
                if message.role == "user" and placed[-1].role != "user":
                    next_one = replace(message, parts=(*waiting[1:], _GAP, *message.parts))
                else:
                    self._settle(placed, waiting)
                waiting = []
            placed.append(next_one)
        if waiting:
            self._settle(placed, waiting)
        return placed

    def _settle(self, placed: list[Message], waiting: Sequence[Part]) -> None:
        """Adds the `waiting` parts to the last of `placed`, or after it as a user message."""
        last = placed[-1]
        takes_user = last.role != "tool" or self._takes("user", "calls", "tool", "user")
        if last.role != "user" and takes_user:
            placed.append(Message("user", tuple(waiting[1:])))
        else:
            placed[-1] = replace(last, parts=(*last.parts, *waiting))


def _merged(leading: Sequence[Message]) -> Message:
    parts: list[Part] = []
    for message in leading:
        parts += (_GAP, *message.parts) if parts else message.parts
    return replace(leading[0], parts=tuple(parts))


def _probe(role: str, word: str) -> dict[str, Any]:
    """A test message of a role. `call` and `calls` are assistant calls with text or an object."""
    if role == "call":
        call = {**_CALL, "function": {"name": "probe", "arguments": word}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if role == "calls":
        return {"role": "assistant", "content": word, "tool_calls": [_CALL]}
    if role == "tool":
        return {"role": role, "content": word, "name": "probe", "tool_call_id": _CALL["id"]}
    return {"role": role, "content": word}
