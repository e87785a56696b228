"""Log-probabilities on their way from the tokens to the text that those gave."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.core.events import ChoiceFinished, GenerationEvent, PartDelta, TokenLogprob


class TokenTrail:
    """The tokens whose text is not told yet, each with the place where its text begins.

    A token goes with the text in which it begins; one without a whole character goes with the
    text that completes it.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        self.decoded = 0
        """Characters of all tokens so far."""
        self.read = 0
        """How many of them the parser has read; the others may be part of a stop string."""

    def add(self, logprob: TokenLogprob) -> None:
        """A token that is about to be decoded."""
        self._waiting.append((self.decoded, logprob))

    def attach(self, events: Sequence[GenerationEvent], *, held: int) -> list[GenerationEvent]:
        """`events` with the tokens of their text; the last `held` characters read wait.

        Tokens whose characters are part of no text are dropped.
        """
        events = list(events)
        told = self.read - held
        taken: list[TokenLogprob] = []
        while self._waiting and self._waiting[0][0] < told:
            taken.append(self._waiting.popleft()[1])
        if taken:
            for index in range(len(events) - 1, -1, -1):
                event = events[index]
                if isinstance(event, PartDelta) and event.kind == "text":
                    events[index] = replace(event, logprobs=tuple(taken))
                    break
        return events

    def finish(self, events: Sequence[GenerationEvent]) -> list[GenerationEvent]:
        """`events`, whose last ends the choice, with the tokens that gave no text any more."""
        events = list(events)
        rest = tuple(logprob for _, logprob in self._waiting)
        self._waiting.clear()
        if rest and isinstance(last := events[-1], ChoiceFinished):
            events[-1] = replace(last, logprobs=rest)
        return events
