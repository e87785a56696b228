"""One choice of a generation: turns what the engine generates into events."""

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
    """One generation of the engine, decoded from token ids into events."""

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
        """Whether the engine has sent a token; it may not complete a character yet."""
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
        """The `tokens` that are reasoning."""
        return self._decoder.reasoning_tokens

    def stop(self) -> None:
        """Stops the engine's work, if it has not finished."""
        if not self._is_told:
            self._stream.stop()

    @property
    def made(self) -> int:
        """Tokens that the engine has made for the answer, read or not."""
        return self._decoder.tokens if self.over else self.produced

    @property
    def produced(self) -> int:
        """All tokens that the engine has made, including those after a stop."""
        return self._stream.now.produced

    @property
    def dropped(self) -> int:
        """The `produced` tokens that come after the end of the answer."""
        return self.produced - self.made - self._end_tokens if self.over else 0

    @property
    def metrics(self) -> EngineMetrics | None:
        """What the engine reported at its end; after a stop it may not have arrived yet."""
        return self._stream.now.metrics

    @property
    def is_streamed(self) -> bool:
        """Whether tokens come as the engine makes them, not all at the end."""
        return self._stream.now.streaming

    @property
    def timings(self) -> EngineTimings | None:
        """The engine's timings, on our clock: arrival is the moment when we sent the request."""
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
        """Whether the engine has finished."""
        return self._is_told or self._stream.now.has_ended

    async def ended(self) -> None:
        """Waits until the engine has finished."""
        if not self._is_told:
            await self._stream.ended()

    def listen(self, on_ready: Callable[[], None]) -> None:
        """Sets the listener: `on_ready` is called when there may be something to take."""
        self._stream.listen(on_ready)

    def take(self) -> list[GenerationEvent]:
        """The part events since the last call, and the end of the choice. Raises: GatewayError."""
        decoder, stream = self._decoder, self._stream
        events: list[GenerationEvent] = []
        # A chunk that gives no event must not hide the chunks after it.
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
        """Removes a closing end id: TensorRT-LLM drops `end_id` and keeps stop words."""
        if token_ids and token_ids[-1] in self._end_ids:
            self._end_tokens = 1
            return token_ids[:-1]
        return token_ids

    def _log_probs(
        self, token_ids: Sequence[int], told: LogProbs | None
    ) -> list[TokenLogprob] | None:
        """The log-probabilities of `token_ids`, with token bytes; None if not requested."""
        if not self._stream.call.log_probs:
            return None
        if told is None:
            # Only an empty last response may lack them.
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
        """The reason that the engine reports; without one, derived from the token count."""
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

    As soon as it gives text instead, it is stopped, and a second attempt takes its place.
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
        """The `tokens` that are reasoning."""
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
        """All tokens that the engine has made for both attempts."""
        return sum(attempt.produced for attempt in self._attempts)

    @property
    def dropped(self) -> int:
        """Tokens that belong to no answer, including those of a dropped attempt."""
        return self._attempt.dropped + sum(one.produced for one in self._attempts[:-1])

    @property
    def metrics(self) -> EngineMetrics | None:
        """What the engine reported at its end; after a stop it may not have arrived yet."""
        return self._attempt.metrics

    @property
    def is_streamed(self) -> bool:
        """Whether tokens come as the engine makes them, not all at the end."""
        return self._attempt.is_streamed

    @property
    def timings(self) -> EngineTimings | None:
        """The engine's timings, if it reports them."""
        return self._attempt.timings

    def stop(self) -> None:
        """Stops the engine's work, if it has not finished."""
        for attempt in self._attempts:
            attempt.stop()

    @property
    def has_ended(self) -> bool:
        """Whether the engine has finished."""
        return all(attempt.has_ended for attempt in self._attempts)

    async def ended(self) -> None:
        """Waits until the engine has finished."""
        for attempt in self._attempts:
            await attempt.ended()

    @property
    def begun(self) -> bool:
        """Whether the engine has sent a token."""
        return self._attempts[0].begun

    @property
    def over(self) -> bool:
        """Whether the end of this choice was taken."""
        return self._attempt.over

    def listen(self, on_ready: Callable[[], None]) -> None:
        """Sets the listener: `on_ready` is called when there may be something to take."""
        self._on_ready = on_ready
        self._attempt.listen(on_ready)

    def take(self) -> list[GenerationEvent]:
        """The part events since the last call, and the end of this choice. Raises: GatewayError."""
        events = self._attempt.take()
        return events if self._otherwise is None else self._if_call(events, self._otherwise)

    def _if_call(
        self, events: list[GenerationEvent], otherwise: Callable[[], Attempt]
    ) -> list[GenerationEvent]:
        """The `events` that count while it is not known whether this is a tool call."""
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
    """Whether this is the beginning of a text, or the end of an empty answer."""
    text = isinstance(event, PartStarted) and event.kind == "text"
    return text or isinstance(event, ChoiceFinished)
