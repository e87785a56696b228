"""Turns the token ids of one choice into events: detokenises, matches stop strings, parses."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.events import GenerationEvent, TokenLogprob
from orchestrator.rendering.detokenizer import Detokenizer
from orchestrator.rendering.output_parsers import EndReason, OutputParser
from orchestrator.rendering.stop_sequences import StopMatcher
from orchestrator.rendering.token_trail import TokenTrail


class Decoder:
    """Decodes one choice; not shared between tasks. Work is O(n) overall.

    `stopped` is true once the answer is complete although the engine goes on: a stop string has
    matched (`stop_sequence`), or the only allowed tool call is complete. The engine should then be
    stopped, and further feeds return nothing. `tokens` counts the ids of the answer, including the
    one that completed it. `reasoning_tokens` counts those that are reasoning or its markers.
    """

    def __init__(
        self, detokenizer: Detokenizer, stop: tuple[str, ...], parser: OutputParser
    ) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stop) if stop else None
        self._parser = parser
        self._trail: TokenTrail | None = None
        self._undecided_tokens = 0
        self.stopped = False
        self.stop_sequence: str | None = None
        self.tokens = 0
        self.reasoning_tokens = 0

    def feed(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] | None = None
    ) -> list[GenerationEvent]:
        """Decodes `token_ids` and returns their events.

        `logprobs` has one entry for each id, in every call or in none. The deltas carry the
        log-probabilities of their text's tokens; those of tool calls and reasoning are dropped.
        """
        if logprobs is not None:
            return self._feed_with_logprobs(token_ids, logprobs)
        parser = self._parser
        if self._matcher is None and not parser.is_stepwise:
            self.tokens += len(token_ids)
            text = self._detokenizer.feed(token_ids)
            return parser.feed(text) if text else []
        start = 0
        # One id at a time while the parser must know which token had which effect.
        while start < len(token_ids) and not self.stopped and parser.is_stepwise:
            self._feed_one(token_ids[start])
            start += 1
        if start < len(token_ids) and not self.stopped:
            rest = token_ids[start:] if start else token_ids
            if text := self._text_of(rest):
                parser.read(text)
        return parser.take()

    def finish(self, reason: EndReason) -> list[GenerationEvent]:
        """Returns what was held back, the end of the open part, and `ChoiceFinished`.

        `reason` is the engine's; a stop string or a tool call replaces it.
        """
        if not self.stopped:
            if rest := self._detokenizer.flush():
                self._read(rest)
            if self._matcher is not None and not self.stopped:
                self._tell(self._matcher.flush())
        events = self._parser.finish("stop" if self.stopped else reason, self.stop_sequence)
        if self._trail is not None:
            events = self._trail.attach(events, held=0)
            if self.stop_sequence is None:
                events = self._trail.finish(events)
        return events

    def _feed_with_logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]
    ) -> list[GenerationEvent]:
        trail = self._trail = self._trail or TokenTrail()
        events: list[GenerationEvent] = []
        for token_id, logprob in zip(token_ids, logprobs, strict=True):
            if self.stopped:
                break
            trail.add(logprob)
            self._feed_one(token_id)
            events += trail.attach(self._parser.take(), held=self._parser.held)
        return events

    def _feed_one(self, token_id: int) -> None:
        thinking = self._parser.thinking
        self.tokens += 1
        self._read(self._detokenizer.feed((token_id,)))
        if thinking != "no":
            self._count_reasoning(thinking == "yes")
        if self._parser.ended:
            self.stopped = True

    def _read(self, text: str) -> None:
        """Passes `text` to the parser, up to a stop string."""
        if self._trail is not None:
            self._trail.decoded += len(text)
        if self._matcher is not None:
            text = self._matcher.feed(text)
            self._heed_stop(self._matcher)
        self._tell(text)

    def _tell(self, text: str) -> None:
        if text:
            self._parser.read(text)
            if self._trail is not None:
                self._trail.read += len(text)

    def _count_reasoning(self, was_thinking: bool) -> None:
        now = self._parser.thinking
        self._undecided_tokens += 1
        if was_thinking or now == "yes":
            self.reasoning_tokens += self._undecided_tokens
        if was_thinking or now != "undecided":
            self._undecided_tokens = 0

    def _text_of(self, token_ids: Sequence[int]) -> str:
        """Decodes `token_ids` and returns the text that they complete, up to a stop string."""
        matcher = self._matcher
        if matcher is None:
            self.tokens += len(token_ids)
            return self._detokenizer.feed(token_ids)
        pieces: list[str] = []
        # One id at a time, so that `tokens` is exact.
        for token_id in token_ids:
            self.tokens += 1
            if text := self._detokenizer.feed((token_id,)):
                pieces.append(matcher.feed(text))
                if matcher.matched is not None:
                    self._heed_stop(matcher)
                    break
        return "".join(pieces)

    def _heed_stop(self, matcher: StopMatcher) -> None:
        if matcher.matched is not None:
            self.stopped = True
            self.stop_sequence = matcher.matched
