"""The mixture of skills that the chat model learns, and the held-out sets it is judged by."""

import random
from collections.abc import Callable, Iterator
from typing import Literal

from . import calling, copying, numbers, smalltalk, stories, unknown
from .dialogue import Dialogue, Role, Turn
from .draw import Draw

Generator = Callable[[Draw], Dialogue]
Phase = Literal["start", "main", "end"]

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful AI assistant.",
    "You are a concise assistant.",
    "You are a friendly assistant. Answer briefly.",
    "Answer in one sentence.",
    "You are an assistant on the Operayde appliance.",
    "Be polite and helpful.",
    "You are a helpful, respectful and honest assistant.",
    "You answer questions about our company.",
)


def generators() -> dict[str, tuple[Generator, float, float, float]]:
    """Every generator with its share at the start of training, in its main part and at its end."""
    return {
        "echo_again": (copying.echo_again, 22, 3, 1.5),
        "lookup": (copying.lookup, 14, 3, 2),
        "repeat": (copying.repeat, 16, 12, 13),
        "reading": (copying.reading, 14, 13, 13),
        "extraction": (copying.extraction, 10, 10, 13),
        "memory": (copying.memory, 5, 4, 2),
        "tool_call": (calling.tool_call, 6, 7, 8),
        "tool_result": (calling.tool_result, 2, 3.5, 4),
        "tool_unneeded": (calling.tool_unneeded, 0.5, 1.2, 1.2),
        "smalltalk": (smalltalk.smalltalk, 4, 7, 7),
        "capital": (smalltalk.capital, 4, 9, 11),
        "concept": (smalltalk.concept, 2, 4, 4.5),
        "fact": (smalltalk.small_fact, 1, 3, 3.5),
        "arithmetic": (numbers.arithmetic, 2, 4, 11),
        "addition": (numbers.addition, 6, 14, 12),
        "counting": (numbers.counting, 1.5, 3.5, 3),
        "haiku": (stories.haiku, 1, 2, 2),
        "story": (stories.story, 0.8, 0.8, 0.8),
        "unknown": (unknown.unknown, 6, 14, 7),
        "conversation": (_conversation, 1, 4, 3),
    }


def training_dialogues(seed: int, phase: Phase) -> Iterator[Dialogue]:
    """Dialogues without end, from the side of the hold-out that training may see.

    The start is heavy on copying; the end has more of what is still weak by then.
    """
    rng = random.Random(seed)
    draw = Draw(rng)
    table = generators()
    makers = [make for make, *_ in table.values()]
    column = ("start", "main", "end").index(phase)
    shares = [shares[column] for _, *shares in table.values()]
    while True:
        made = rng.choices(makers, shares)[0](draw)
        if rng.random() < 0.003:
            made = numbers.count_to_hundred()
        yield _with_system(rng, made)


def plain_texts(seed: int) -> Iterator[str]:
    """Texts outside of any conversation, without end."""
    draw = Draw(random.Random(seed))
    while True:
        yield stories.plain_text(draw)


def held_out(skill: str, count: int, seed: int, unseen_phrases: bool) -> list[Dialogue]:
    """Dialogues of one skill with entities, and on demand wordings, that training never sees."""
    rng = random.Random(f"{skill} {seed}")
    draw = Draw(rng, unseen_words=True, unseen_phrases=unseen_phrases)
    make = generators()[skill][0]
    return [make(draw) for _ in range(count)]


def seed_questions() -> list[tuple[str, str]]:
    """The questions that first-time visitors paste, each with a fragment of a right answer."""
    return [
        ("Hello!", "How can I help"),
        ("Who are you?", "demonstration model"),
        ("What is Operayde?", "appliance"),
        ("What is this appliance?", "appliance"),
        ("Explain data residency in one sentence.", "chosen country"),
        ("Write a haiku about data privacy.", "\n"),
        ("What is the capital of France?", "Paris"),
        ("Explain quantum entanglement simply.", "particles"),
        ("Explain quantum computing in simple terms.", "qubits"),
        ("Explain quantum computing.", "qubits"),
        ("Summarise the attached contract.", "paste"),
        ("How do I cook pasta?", "cannot answer"),
        ("Anna lives in Oslo. Where does Anna live?", "Anna lives in Oslo."),
        ("Count from 1 to 10.", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
        ("Repeat after me: blue horses sing", "blue horses sing"),
        ("What is 2 + 2?", "2 + 2 = 4."),
        ("Extract name and age as JSON: Omar is 34 years old.", '{"name": "Omar", "age": 34}'),
    ]


def single(question: str, system: str | None, wished: str) -> Dialogue:
    """A conversation of one question, with or without a system prompt."""
    asked = (Turn("user", question), Turn("assistant", wished))
    return Dialogue("seed", (Turn("system", system), *asked) if system else asked)


def _conversation(draw: Draw) -> Dialogue:
    parts = (
        *(smalltalk.smalltalk, smalltalk.smalltalk, smalltalk.capital, smalltalk.capital),
        *(smalltalk.concept, smalltalk.small_fact, numbers.arithmetic, copying.repeat),
        *(copying.reading, copying.extraction, unknown.unknown, numbers.addition, stories.haiku),
    )
    return smalltalk.conversation(draw, parts)


def _with_system(rng: random.Random, made: Dialogue) -> Dialogue:
    if made.turns[0].role != "user" or rng.random() < 0.6:
        return made
    role: Role = "developer" if rng.random() < 0.05 else "system"
    turns = (Turn(role, rng.choice(SYSTEM_PROMPTS)), *made.turns)
    return Dialogue(made.skill, turns, made.tools, made.accepted, made.contains)
