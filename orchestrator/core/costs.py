"""What a request costs its caller, and what the engine did for it in vain."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from orchestrator.core.events import Usage
from orchestrator.core.value import value

Outcome = Literal["ok", "cancelled", "failed"]
"""How a request ended: with its whole answer, by the client leaving or cancelling, by a fault."""


@value
class Cost:
    """`usage` is charged: it counts against limits. `wasted_tokens` are recorded and charged to no
    caller.
    """

    usage: Usage
    wasted_tokens: int = 0


def cost_of(made: Usage, outcome: Outcome, *, seen: int, dropped: int) -> Cost:
    """The cost of a generation by the one rule: a caller pays for what its client could have seen.

    `made` is the prompt and what the engine has made of the answer. An answer that ended, and one
    whose client left or cancelled it, costs all of that. One that failed costs the prompt and the
    `seen` tokens that were sent to the client; without any, nothing at all. Waste is the rest:
    tokens of the answer that were not sent, and the prompt where it is not charged although the
    engine has begun, and `dropped`: tokens that never were to be part of the answer.
    """
    if outcome != "failed":
        return Cost(made, dropped)
    unseen = made.completion_tokens - seen
    if seen:
        charged = min(made.reasoning_tokens, seen)
        return Cost(
            replace(made, completion_tokens=seen, reasoning_tokens=charged), dropped + unseen
        )
    worked = unseen + dropped
    return Cost(Usage(0, 0), made.prompt_tokens + worked if worked else 0)


def cost_of_vectors(prompt_tokens: int, outcome: Outcome, *, answered: int) -> Cost:
    """The same for an embedding: vectors are sent all together or not at all.

    `answered` are the tokens of the inputs that the engine has given vectors for, those of inputs
    that it was given twice counted twice.
    """
    if outcome == "failed":
        return Cost(Usage(0, 0), answered)
    return Cost(Usage(prompt_tokens, 0), max(0, answered - prompt_tokens))
