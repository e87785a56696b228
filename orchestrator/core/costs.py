"""What a request costs its caller, and how much of the engine's work was wasted."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from orchestrator.core.events import Usage
from orchestrator.core.value import value

Outcome = Literal["ok", "cancelled", "failed"]
"""How a request ended: with its whole answer; disconnected or cancelled by the client; a fault."""


@value
class Cost:
    """`usage` is charged: it counts against limits. `wasted_tokens` are recorded, not charged."""

    usage: Usage
    wasted_tokens: int = 0


def cost_of(made: Usage, outcome: Outcome, *, seen: int, dropped: int) -> Cost:
    """The cost of a generation. The one rule: a caller pays for what its client could have seen.

    `made` is the prompt and what the engine has made of the answer. An answer that finished, or
    whose client disconnected or cancelled, costs all of that. A failed answer costs the prompt and
    the `seen` tokens that were sent to the client; if none were sent, it costs nothing. The rest is
    waste: tokens of the answer that were not sent; the prompt, if it is not charged although the
    engine has started; and `dropped`, tokens that were never part of the answer.
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
    """The cost of an embedding: vectors are sent all together or not at all.

    `answered` is the number of tokens of the inputs that the engine has returned vectors for.
    Inputs that it embedded twice count twice.
    """
    if outcome == "failed":
        return Cost(Usage(0, 0), answered)
    return Cost(Usage(prompt_tokens, 0), max(0, answered - prompt_tokens))
