"""Token ids of one choice to its events: detokenise, match stop strings, parse."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.events import GenerationEvent
from orchestrator.rendering.detokenizer import Detokenizer
from orchestrator.rendering.output_parsers import EndReason, OutputParser
from orchestrator.rendering.stop_sequences import StopMatcher


class Decoder:
    """One per choice; not shared between tasks. Work is O(n) overall.

    `stopped` is true once a stop string has matched: the engine should be stopped, and further
    feeds return nothing. `tokens` counts the ids that belong to the answer, up to and with the one
    that completed the match.
    """

    def __init__(
        self, detokenizer: Detokenizer, stop: tuple[str, ...], parser: OutputParser
    ) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stop) if stop else None
        self._parser = parser
        self.stopped = False
        self.tokens = 0

    def feed(self, token_ids: Sequence[int]) -> list[GenerationEvent]:
        """The events that `token_ids` bring about."""
        if self.stopped:
            return []
        if self._matcher is None:
            self.tokens += len(token_ids)
            text = self._detokenizer.feed(token_ids)
        else:
            text = self._feed_until_stop(self._matcher, token_ids)
        return self._parser.feed(text) if text else []

    def finish(self, reason: EndReason) -> list[GenerationEvent]:
        """What was held back, the end of the open part, and `ChoiceFinished`.

        `reason` is the engine's; a stop string or a tool call makes it another.
        """
        events: list[GenerationEvent] = []
        if not self.stopped and (rest := self._rest()):
            events += self._parser.feed(rest)
        return events + self._parser.finish("stop" if self.stopped else reason)

    def _feed_until_stop(self, matcher: StopMatcher, token_ids: Sequence[int]) -> str:
        """One id at a time, so that `tokens` is right to the id."""
        pieces: list[str] = []
        for token_id in token_ids:
            self.tokens += 1
            if text := self._detokenizer.feed((token_id,)):
                pieces.append(matcher.feed(text))
                if matcher.matched:
                    self.stopped = True
                    break
        return "".join(pieces)

    def _rest(self) -> str:
        rest = self._detokenizer.flush()
        if self._matcher is None:
            return rest
        text = self._matcher.feed(rest)
        self.stopped = self._matcher.matched
        return text + self._matcher.flush()
