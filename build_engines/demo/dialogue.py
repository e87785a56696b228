"""The value every generator makes: a conversation and how its last answer is judged."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; `calls` holds (name, arguments) pairs of an assistant turn."""

    role: Role
    content: str
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation that ends with the assistant's turn to be learnt.

    `accepted` lists further answers as good as the last turn; `contains` replaces the exact
    comparison where any answer with these fragments is right.
    """

    skill: str
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    accepted: tuple[str, ...] = ()
    contains: tuple[str, ...] = field(default=())

    def messages(self) -> list[dict[str, Any]]:
        """The turns as a chat template takes them."""
        return [_message(turn) for turn in self.turns]


def ask(
    skill: str,
    question: str,
    answer: str,
    accepted: Sequence[str] = (),
    contains: Sequence[str] = (),
) -> Dialogue:
    """A conversation of one question and one answer."""
    turns = (Turn("user", question), Turn("assistant", answer))
    return Dialogue(skill, turns, (), tuple(accepted), tuple(contains))


def roughen(rng: random.Random, question: str) -> str:
    """The question as a hurried visitor may type it: same meaning, other surface."""
    kind = rng.random()
    if kind < 0.08:
        question = question.lower()
    elif kind < 0.16:
        question = question.rstrip("?.!")
    elif kind < 0.22:
        question = question.lower().rstrip("?.!")
    elif kind < 0.26:
        question = rng.choice(("Please ", "Hey, ", "Hi! ", "Hello, ", "OK, ", "So, ")) + (
            question[:1].lower() + question[1:] if rng.random() < 0.5 else question
        )
    elif kind < 0.29:
        question += rng.choice((" Please.", " Thanks!", " Thank you.", "  ", "\n", "!", " ?"))
    return question


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in turn.calls
        ]
    return message
