"""Assigns log-probabilities of tokens to the text that the tokens gave."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.core.events import ChoiceFinished, GenerationEvent, PartDelta, TokenLogprob


class TokenTrail:
    """The tokens whose text is not in an event yet, each with the position where its text begins.

    A token belongs to the text in which it begins; a token without a whole character belongs to
    the text that completes the character.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        self.decoded = 0
        """Characters of all tokens so far."""
        self.read = 0
        """How many of `decoded` the parser has read; the rest may be part of a stop string."""

    def add(self, logprob: TokenLogprob) -> None:
        """Adds a token that is about to be decoded."""
        self._waiting.append((self.decoded, logprob))

    def attach(self, events: Sequence[GenerationEvent], *, held: int) -> list[GenerationEvent]:
        """Adds the tokens of their text to `events`; the last `held` read characters wait.

        Tokens whose characters are not part of a text are dropped.
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
        """Adds the remaining tokens, which gave no text, to the last event, `ChoiceFinished`."""
        events = list(events)
        rest = tuple(logprob for _, logprob in self._waiting)
        self._waiting.clear()
        if rest and isinstance(last := events[-1], ChoiceFinished):
            events[-1] = replace(last, logprobs=rest)
        return events
