"""A stream of one generation that may change its server until the first token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.backends.triton.placement import Failover, Placement
from orchestrator.core.errors import ModelUnavailable, UpstreamTimeout
from orchestrator.core.event_source import noop
from orchestrator.triton.contract import GenerateCall, TokenChunk
from orchestrator.triton.errors import unavailable

if TYPE_CHECKING:
    from orchestrator.backends.triton.affinity import Blocks
    from orchestrator.triton.stream import TokenStream


class PlacedStream:
    """The chunks of one generation, in order.

    Before the first chunk, the client has seen nothing: if the server is lost or has no room, the
    generation starts again on another one. After the first chunk it never does.
    """

    def __init__(
        self, placement: Placement, blocks: Blocks, call: GenerateCall, first_token_timeout_s: float
    ) -> None:
        self.call = call
        self._failover = Failover(placement, blocks, call.request_id, first_token_timeout_s)
        self._on_ready: Callable[[], None] = noop
        self._begun = False
        self._stopped = False
        self._expired = False
        self._timer: asyncio.TimerHandle | None = None
        self.now = self._started()
        """The stream on the current server; streams on earlier servers gave no token."""

    def listen(self, on_ready: Callable[[], None]) -> None:
        """Sets the listener: `on_ready` is called when there may be something to take."""
        self._on_ready = self.now.on_ready = on_ready

    def take(self) -> TokenChunk | None:
        """Returns the next chunk, or None if none has arrived.

        Must not be called after the final chunk. Raises: GatewayError.
        """
        stream = self.now
        try:
            chunk = stream.take()
            if chunk is None:
                if stream.is_over:
                    # The stream ended without a final response: Triton shuts down.
                    raise unavailable()
                if self._expired:
                    raise UpstreamTimeout("The engine did not answer in time.")
                return None
            if chunk.finish_reason == "cancelled" and not stream.produced:
                # Cancelled before any token, and not by us: Triton shuts down.
                raise unavailable()
        except ModelUnavailable as error:
            self._move(error)
            return None
        if not self._begun:
            self._begun = True
            self._want_no_more()
        return chunk

    def stop(self) -> None:
        """Stops the generation on the engine, in the background. Idempotent."""
        self._stopped = True
        self._want_no_more()
        self.now.stop()

    async def ended(self) -> None:
        """Waits until the engine has finished."""
        await self.now.ended()

    def _move(self, error: ModelUnavailable) -> None:
        """Starts again on another server, if there is one. Raises: ModelUnavailable."""
        if not self._stopped:
            self._failover.failed(error)
        if self._begun or self._stopped or not self._failover.moves():
            raise error
        self.now.stop()
        self.now = self._started()

    def _started(self) -> TokenStream:
        stream = self._failover.replica.client.generate(self.call)
        stream.on_ready = self._on_ready
        if stream.streaming and self._timer is None:
            # A response that is not streamed may take a whole request's time: `TritonClient` has
            # that timeout.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._failover.left_s, self._expire)
        return stream

    def _want_no_more(self) -> None:
        """Cancels the timeout of the first token."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._expired = True
        self._on_ready()
