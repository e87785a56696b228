"""One answer: what the engine generates for it, as events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from orchestrator.backends.triton.placed_stream import PlacedStream
from orchestrator.core.errors import UpstreamFailed
from orchestrator.core.event_source import noop
from orchestrator.core.events import (
    ChoiceFinished,
    EngineTimings,
    GenerationEvent,
    LikelyToken,
    PartStarted,
    TokenLogprob,
)
from orchestrator.rendering import Decoder, Renderer
from orchestrator.triton.contract import EngineMetrics, LogProbs, TokenChunk
from orchestrator.triton.errors import unavailable


class Attempt:
    """One generation of the engine on its way from token ids to events."""

    def __init__(self, stream: PlacedStream, decoder: Decoder, renderer: Renderer) -> None:
        self._stream = stream
        self._decoder = decoder
        self._renderer = renderer
        self._end_ids = frozenset((stream.call.end_id, *stream.call.extra_end_ids))
        self._received = 0
        self._end_tokens = 0
        self.answered = 0
        """Tokens whose text is in the events that were taken."""
        self.begun = False
        """Whether the engine has begun; its first token may hold no whole character yet."""
        self.over = False
        """Whether the end of the choice was taken."""
        self._is_told = False
        """Whether the engine's final response was taken; the end of its call may come later."""

    @property
    def tokens(self) -> int:
        """Tokens that belong to the answer so far."""
        return self._decoder.tokens

    @property
    def reasoning_tokens(self) -> int:
        """Those of them that are thoughts."""
        return self._decoder.reasoning_tokens

    def stop(self) -> None:
        """Ends the engine's side, if it has not ended."""
        if not self._is_told:
            self._stream.stop()

    @property
    def made(self) -> int:
        """Tokens that the engine has made for the answer, read or not."""
        return self._decoder.tokens if self.over else self.produced

    @property
    def produced(self) -> int:
        """All tokens that the engine has made, those after a stop included."""
        return self._stream.now.produced

    @property
    def dropped(self) -> int:
        """Those of them that were made behind the end of the answer."""
        return self.produced - self.made - self._end_tokens if self.over else 0

    @property
    def metrics(self) -> EngineMetrics | None:
        """What the engine told at its end; after a stop that may still be to come."""
        return self._stream.now.metrics

    @property
    def is_streamed(self) -> bool:
        """Whether tokens come as the engine makes them, not all at its end."""
        return self._stream.now.streaming

    @property
    def timings(self) -> EngineTimings | None:
        """The engine's clock readings, its arrival being the moment when we sent the request."""
        if (told := self._stream.now.metrics) is None:
            return None
        ahead = self._stream.now.asked_at_ns - told.arrived_ns
        return EngineTimings(
            arrived_at_ns=self._stream.now.asked_at_ns,
            scheduled_at_ns=told.scheduled_ns + ahead,
            first_token_at_ns=told.first_token_ns + ahead,
            last_token_at_ns=told.last_token_ns + ahead,
        )

    @property
    def has_ended(self) -> bool:
        """Whether the engine's side is over."""
        return self._is_told or self._stream.now.has_ended

    async def ended(self) -> None:
        """Returns when the engine's side is over."""
        if not self._is_told:
            await self._stream.ended()

    def listen(self, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called when there may be something to take."""
        self._stream.listen(on_ready)

    def take(self) -> list[GenerationEvent]:
        """The part events since the last call, and the end of the choice. Raises: GatewayError."""
        decoder, stream = self._decoder, self._stream
        events: list[GenerationEvent] = []
        # What gives no event must not hide what waits behind it.
        while not events and (chunk := stream.take()) is not None:
            self.begun = True
            self._received += len(chunk.token_ids)
            token_ids = self._visible(chunk.token_ids)
            events = decoder.feed(token_ids, self._log_probs(token_ids, chunk.log_probs))
            if chunk.final:
                self._is_told = True
            if decoder.stopped:
                self.stop()
            if decoder.stopped or chunk.final:
                events += decoder.finish(self._reason(chunk))
                self.over = True
                break
        if events:
            self.answered = decoder.tokens
        return events

    def _visible(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Without a closing end id: TensorRT-LLM drops `end_id` and keeps stop words."""
        if token_ids and token_ids[-1] in self._end_ids:
            self._end_tokens = 1
            return token_ids[:-1]
        return token_ids

    def _log_probs(
        self, token_ids: Sequence[int], told: LogProbs | None
    ) -> list[TokenLogprob] | None:
        """Those of `token_ids` with the bytes of every token in them, where they were asked for."""
        if not self._stream.call.log_probs:
            return None
        if told is None:
            # An empty last response has none; one with tokens and without them is no use.
            if token_ids:
                raise UpstreamFailed("The engine gave no log-probabilities.")
            return []
        raw = self._renderer.token_bytes
        tokens = []
        for at, token_id in enumerate(token_ids):
            likely = told.top[at] if told.top else ()
            top = tuple(LikelyToken(one, raw(one), value) for one, value in likely)
            tokens.append(TokenLogprob(token_id, raw(token_id), told.drawn[at], top))
        return tokens

    def _reason(self, chunk: TokenChunk) -> Literal["stop", "length"]:
        """The engine's word where it gives one; otherwise what the count tells."""
        if self._decoder.stopped:
            return "stop"
        match chunk.finish_reason:
            case "stop" | "length":
                return chunk.finish_reason
            case None:
                ended = bool(chunk.token_ids) and chunk.token_ids[-1] in self._end_ids
                full = self._received >= self._stream.call.max_tokens
                return "length" if full and not ended else "stop"
            case "cancelled":
                raise unavailable()
            case _:
                raise UpstreamFailed("The engine ended this request for a reason of its own.")


class CallFirst:
    """An attempt that counts only if it is a tool call.

    As soon as it turns out to say something instead, it is dropped for the other one.
    """

    def __init__(self, first: Attempt, otherwise: Callable[[], Attempt]) -> None:
        self._attempts = [first]
        self._otherwise: Callable[[], Attempt] | None = otherwise
        self._on_ready: Callable[[], None] = noop

    @property
    def _attempt(self) -> Attempt:
        return self._attempts[-1]

    @property
    def tokens(self) -> int:
        """Tokens that belong to the answer so far."""
        return self._attempt.tokens

    @property
    def reasoning_tokens(self) -> int:
        """Those of them that are thoughts."""
        return self._attempt.reasoning_tokens

    @property
    def answered(self) -> int:
        """Tokens whose text is in the events that were taken."""
        return self._attempt.answered

    @property
    def made(self) -> int:
        """Tokens that the engine has made for the answer, read or not."""
        return self._attempt.made

    @property
    def produced(self) -> int:
        """All tokens that engines have made, for both attempts."""
        return sum(attempt.produced for attempt in self._attempts)

    @property
    def dropped(self) -> int:
        """Tokens that belong to no answer, those of an attempt that was given up among them."""
        return self._attempt.dropped + sum(one.produced for one in self._attempts[:-1])

    @property
    def metrics(self) -> EngineMetrics | None:
        """What the engine told at its end; after a stop that may still be to come."""
        return self._attempt.metrics

    @property
    def is_streamed(self) -> bool:
        """Whether tokens come as the engine makes them, not all at its end."""
        return self._attempt.is_streamed

    @property
    def timings(self) -> EngineTimings | None:
        """The engine's clock readings, as far as it tells them."""
        return self._attempt.timings

    def stop(self) -> None:
        """Ends the engine's side, if it has not ended."""
        for attempt in self._attempts:
            attempt.stop()

    @property
    def has_ended(self) -> bool:
        """Whether the engine's side is over."""
        return all(attempt.has_ended for attempt in self._attempts)

    async def ended(self) -> None:
        """Returns when the engine's side is over."""
        for attempt in self._attempts:
            await attempt.ended()

    @property
    def begun(self) -> bool:
        """Whether the engine has begun."""
        return self._attempts[0].begun

    @property
    def over(self) -> bool:
        """Whether the end of this choice was taken."""
        return self._attempt.over

    def listen(self, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called when there may be something to take."""
        self._on_ready = on_ready
        self._attempt.listen(on_ready)

    def take(self) -> list[GenerationEvent]:
        """The part events since the last call, and the end of this choice. Raises: GatewayError."""
        events = self._attempt.take()
        return events if self._otherwise is None else self._if_call(events, self._otherwise)

    def _if_call(
        self, events: list[GenerationEvent], otherwise: Callable[[], Attempt]
    ) -> list[GenerationEvent]:
        """Those of `events` that count while it is open whether this is a tool call."""
        for index, event in enumerate(events):
            if isinstance(event, PartStarted) and event.kind == "tool_call":
                self._otherwise = None
                return events
            if _says_something(event):
                self._otherwise = None
                self._attempt.stop()
                self._attempts.append(otherwise())
                self._attempt.listen(self._on_ready)
                return events[:index]
        return events


Choice: TypeAlias = Attempt | CallFirst
"""One answer of a generation."""


def _says_something(event: GenerationEvent) -> bool:
    """Whether this is the beginning of an answer, or the end of one that says nothing."""
    text = isinstance(event, PartStarted) and event.kind == "text"
    return text or isinstance(event, ChoiceFinished)
