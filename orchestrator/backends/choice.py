"""One answer: what the engine generates for it, as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Literal

from orchestrator.backends.placed_stream import PlacedStream
from orchestrator.core.errors import UpstreamFailed
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
        self._stream.stop()

    @property
    def produced_so_far(self) -> int:
        """Tokens that the engine has made, those after a stop included."""
        return self._stream.produced

    @property
    def metrics(self) -> EngineMetrics | None:
        """What the engine told at its end; after a stop that may still be to come."""
        return self._stream.metrics

    @property
    def timings(self) -> EngineTimings | None:
        """The engine's clock readings, its arrival being the moment when we sent the request."""
        if (told := self._stream.metrics) is None:
            return None
        ahead = self._stream.asked_at_ns - told.arrived_ns
        return EngineTimings(
            arrived_at_ns=self._stream.asked_at_ns,
            scheduled_at_ns=told.scheduled_ns + ahead,
            first_token_at_ns=told.first_token_ns + ahead,
            last_token_at_ns=told.last_token_ns + ahead,
        )

    async def ended(self) -> None:
        """Returns when the engine's side is over."""
        await self._stream.ended()

    async def events(self) -> AsyncGenerator[GenerationEvent | None, None]:
        """`None` when the engine has begun, then the part events and the end of the choice.

        The first token may hold no whole character yet, so that beginning is told apart.
        Raises: GatewayError.
        """
        decoder, stream = self._decoder, self._stream
        begun = False
        while True:
            chunk = await stream.next_chunk()
            if not begun:
                begun = True
                yield None
            self._received += len(chunk.token_ids)
            token_ids = self._visible(chunk.token_ids)
            for event in decoder.feed(token_ids, self._log_probs(token_ids, chunk.log_probs)):
                yield event
            if decoder.stopped:
                stream.stop()
            if decoder.stopped or chunk.final:
                for event in decoder.finish(self._reason(chunk)):
                    yield event
                return

    def _visible(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Without a closing end id: TensorRT-LLM drops `end_id` and keeps stop words."""
        if token_ids and token_ids[-1] in self._end_ids:
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


class Choice:
    """One answer of a generation.

    Where `otherwise` is given, the first attempt counts only if it is a tool call. As soon as it
    turns out to say something instead, it is dropped for the other one.
    """

    def __init__(self, first: Attempt, otherwise: Callable[[], Attempt] | None = None) -> None:
        self._attempts = [first]
        self._otherwise = otherwise

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
    def produced_so_far(self) -> int:
        """Tokens that the engine has made, those after a stop included."""
        return sum(attempt.produced_so_far for attempt in self._attempts)

    @property
    def metrics(self) -> EngineMetrics | None:
        """What the engine told at its end; after a stop that may still be to come."""
        return self._attempt.metrics

    @property
    def timings(self) -> EngineTimings | None:
        """The engine's clock readings, as far as it tells them."""
        return self._attempt.timings

    def stop(self) -> None:
        """Ends the engine's side, if it has not ended."""
        for attempt in self._attempts:
            attempt.stop()

    async def ended(self) -> None:
        """Returns when the engine's side is over."""
        for attempt in self._attempts:
            await attempt.ended()

    def events(self) -> AsyncGenerator[GenerationEvent | None, None]:
        """`None` when the engine has begun, then the part events and the end of this choice.

        Raises: GatewayError.
        """
        if self._otherwise is None:
            return self._attempt.events()
        return self._calls_or(self._otherwise)

    async def _calls_or(
        self, otherwise: Callable[[], Attempt]
    ) -> AsyncGenerator[GenerationEvent | None, None]:
        called = False
        async with aclosing(self._attempt.events()) as events:
            async for event in events:
                called = called or (isinstance(event, PartStarted) and event.kind == "tool_call")
                if not called and _says_something(event):
                    break
                yield event
            else:
                return
        self._attempt.stop()
        self._attempts.append(otherwise())
        async with aclosing(self._attempt.events()) as events:
            async for event in events:
                if event is not None:
                    yield event


def _says_something(event: GenerationEvent | None) -> bool:
    """Whether this is the beginning of an answer, or the end of one that says nothing."""
    text = isinstance(event, PartStarted) and event.kind == "text"
    return text or isinstance(event, ChoiceFinished)
