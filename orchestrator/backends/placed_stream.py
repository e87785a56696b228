"""A generation on whichever server gives it its first token."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING

from orchestrator.backends.placement import Placement, Way
from orchestrator.core.errors import ModelUnavailable
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
        self._stream = self._started()
        self._begun = False
        self._stopped = False

    @property
    def produced(self) -> int:
        """Tokens that the engine has made. A server that was left had made none."""
        return self._stream.produced

    @property
    def metrics(self) -> EngineMetrics | None:
        """What the engine told at its end; after a stop that may still be to come."""
        return self._stream.metrics

    @property
    def asked_at_ns(self) -> int:
        """When the server that answers was asked, in Unix nanoseconds."""
        return self._stream.asked_at_ns

    def next_chunk(self) -> Coroutine[None, None, TokenChunk]:
        """The next chunk; none may be asked for after the final one. Raises: GatewayError."""
        return self._read(None) if self._begun else self._first()

    def stop(self) -> None:
        """Ends the generation on the engine's side, in the background. Twice is once."""
        self._stopped = True
        self._stream.stop()

    async def ended(self) -> None:
        """Returns when the engine's side is over."""
        await self._stream.ended()

    async def _first(self) -> TokenChunk:
        while True:
            try:
                chunk = await self._read(self._way.left_s)
            except ModelUnavailable:
                if self._stopped or not self._way.moves():
                    raise
                self._stream.stop()
                self._stream = self._started()
            else:
                self._begun = True
                return chunk

    def _started(self) -> TokenStream:
        return self._way.replica.client.generate(self.call)

    async def _read(self, timeout_s: float | None) -> TokenChunk:
        try:
            chunk = await self._stream.next_chunk(timeout_s)
            # Without a final response, or without a token and by no wish of ours: Triton goes away
            # in good order.
            if chunk is None or (chunk.finish_reason == "cancelled" and not self.produced):
                raise unavailable()
        except ModelUnavailable as error:
            if not self._stopped:
                self._way.failed(error)
            raise
        return chunk
