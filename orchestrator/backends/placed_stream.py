"""A generation on whichever server gives it its first token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.backends.placement import Placement, Way
from orchestrator.core.errors import ModelUnavailable, UpstreamTimeout
from orchestrator.triton.contract import EngineMetrics, GenerateCall, TokenChunk
from orchestrator.triton.errors import unavailable

if TYPE_CHECKING:
    from orchestrator.backends.affinity import Blocks
    from orchestrator.triton.stream import TokenStream


class PlacedStream:
    """The chunks of one generation, in order.

    Until the first has come, nobody has seen anything of it: if its server goes away or has no
    room, it is started again on another one. Afterwards it never is.
    """

    def __init__(
        self, placement: Placement, blocks: Blocks, call: GenerateCall, first_token_timeout_s: float
    ) -> None:
        self.call = call
        self._way = Way(placement, blocks, call.request_id, first_token_timeout_s)
        self._on_news: Callable[[], None] = _nobody
        self._begun = False
        self._stopped = False
        self._expired = False
        self._timer: asyncio.TimerHandle | None = None
        self._stream = self._started()

    @property
    def produced(self) -> int:
        """Tokens that the engine has made. A server that was left had made none."""
        return self._stream.produced

    @property
    def metrics(self) -> EngineMetrics | None:
        """What the engine told at its end; after a stop that may still be to come."""
        return self._stream.metrics

    @property
    def is_streamed(self) -> bool:
        """Whether tokens come as the engine makes them, not all at its end."""
        return self._stream.streaming

    @property
    def asked_at_ns(self) -> int:
        """When the server that answers was asked, in Unix nanoseconds."""
        return self._stream.asked_at_ns

    def listen(self, on_news: Callable[[], None]) -> None:
        """`on_news` is called when there may be something to take."""
        self._on_news = self._stream.on_news = on_news

    def take(self) -> TokenChunk | None:
        """What has come since the last call, if anything has.

        Not to be called after the final chunk. Raises: GatewayError.
        """
        try:
            chunk = self._taken()
        except ModelUnavailable as error:
            if not self._stopped:
                self._way.failed(error)
            if self._begun or self._stopped or not self._way.moves():
                raise
            self._stream.stop()
            self._stream = self._started()
            return None
        if chunk is not None and not self._begun:
            self._begun = True
            self._want_no_more()
        return chunk

    def stop(self) -> None:
        """Ends the generation on the engine's side, in the background. Twice is once."""
        self._stopped = True
        self._want_no_more()
        self._stream.stop()

    @property
    def has_ended(self) -> bool:
        """Whether the engine's side is over."""
        return self._stream.has_ended

    async def ended(self) -> None:
        """Returns when the engine's side is over."""
        await self._stream.ended()

    def _taken(self) -> TokenChunk | None:
        stream = self._stream
        chunk = stream.take()
        if chunk is None:
            if stream.is_over:
                # Without a final response: Triton goes away in good order.
                raise unavailable()
            if self._expired:
                raise UpstreamTimeout("The engine did not answer in time.")
        elif chunk.finish_reason == "cancelled" and not stream.produced:
            # Without a token and by no wish of ours: the same.
            raise unavailable()
        return chunk

    def _started(self) -> TokenStream:
        stream = self._way.replica.client.generate(self.call)
        stream.on_news = self._on_news
        if stream.streaming and self._timer is None:
            # An answer in one response has the time of a whole request, which its client knows.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._way.left_s, self._expire)
        return stream

    def _want_no_more(self) -> None:
        """The first token may take as long as it likes."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._expired = True
        self._on_news()


def _nobody() -> None:
    """Nobody waits yet."""
