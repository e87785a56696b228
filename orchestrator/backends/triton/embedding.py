"""Checks the inputs to embed, cuts them into batches, and sends them to Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from orchestrator.backends.protocol import EmbeddingRun, Permit
from orchestrator.backends.triton.comeback import Comeback, WaitingRoom
from orchestrator.backends.triton.placement import Failover, Placements
from orchestrator.backends.triton.served import PreparedEmbedding, ServedModel
from orchestrator.core.costs import Cost, Outcome, cost_of_vectors
from orchestrator.core.errors import ContextLengthExceeded, InvalidRequest, ModelUnavailable
from orchestrator.core.fair_threads import FairThreads
from orchestrator.core.request import EmbeddingRequest
from orchestrator.core.value import value
from orchestrator.rendering.renderer import LONG_PROMPT_CHARACTERS

Rows = Sequence[Sequence[int]]
"""Token ids of each input."""


async def rows_of(
    served: ServedModel,
    request: EmbeddingRequest,
    owner: str,
    permit: Permit,
    threads: FairThreads,
) -> Rows:
    """The inputs of `request` in tokens.

    Raises: InvalidRequest, ContextLengthExceeded, RateLimited.
    """
    if request.dimensions not in (None, served.manifest.dimension):
        raise InvalidRequest(
            f"`dimensions` is {request.dimensions}; `{request.model}` gives vectors of"
            f" {served.manifest.dimension} and cannot shorten them.",
            param="dimensions",
        )
    rows = await _rows(_Texts(served, request.inputs, permit), owner, threads)
    _check(served, rows)
    return rows


class TritonEmbedding(EmbeddingRun):
    """The embedding of one request. Work is done only while `vectors` is awaited."""

    def __init__(self, embedder: Embedder, prepared: PreparedEmbedding, request_id: str) -> None:
        self._embedder = embedder
        self._prepared = prepared
        self._request_id = request_id
        self._answered = 0

    async def vectors(self) -> Sequence[memoryview]:
        """One float32 little-endian vector for each input, in their order. Raises: GatewayError."""
        return await self._embedder.embed(self._prepared, self._request_id, self._count)

    def stop(self) -> None:
        """Does nothing: cancelling `vectors` has cancelled the work."""

    @property
    def has_ended(self) -> bool:
        """Always true: no work runs while `vectors` is not awaited."""
        return True

    async def ended(self) -> None:
        """Returns at once."""

    def cost(self, outcome: Outcome, *, sent: bool) -> Cost:
        """What it costs if it ends now; vectors are sent all together or not at all."""
        del sent
        tokens = self._prepared.prompt_tokens
        return cost_of_vectors(tokens, outcome, answered=self._answered)

    def _count(self, tokens: int) -> None:
        self._answered += tokens


class Embedder:
    """Sends each batch to a server that can embed it."""

    def __init__(self, placements: Placements, *, timeout_s: float, waiting: WaitingRoom) -> None:
        """For `timeout_s` a batch may move from a failing server to another one.

        Calls wait in `waiting` for a model that is being restarted.
        """
        self._placements = placements
        self._timeout_s = timeout_s
        self._waiting = waiting

    async def embed(
        self,
        prepared: PreparedEmbedding,
        request_id: str,
        on_answer: Callable[[int], None] | None = None,
    ) -> Sequence[memoryview]:
        """One float32 little-endian vector for each input, in their order. Raises: GatewayError.

        `on_answer` is called with the token count of each batch whose vectors have arrived. If the
        engine dies, all batches are embedded once more when the model is back.
        """
        placement = self._placements.of(prepared.served.model.name)
        comeback = Comeback(placement, self._waiting, prepared.owner)
        if not comeback.is_served:
            await comeback.wait()
        comeback.begin()
        try:
            return await self._all(prepared, request_id, on_answer)
        except ModelUnavailable as error:
            if not comeback.is_open_after(error):
                raise
            await comeback.wait(error)
        return await self._all(prepared, f"{request_id}-again", on_answer)

    async def _all(
        self,
        prepared: PreparedEmbedding,
        request_id: str,
        on_answer: Callable[[int], None] | None,
    ) -> Sequence[memoryview]:
        rows, size = prepared.rows, prepared.served.manifest.max_batch_size
        model = prepared.served.model.name
        if len(rows) <= size:
            return await self._batch(model, f"{request_id}-0", rows)
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]

        async def vectors_of(number: int, batch: Rows) -> list[memoryview]:
            made = await self._batch(model, f"{request_id}-{number}", batch)
            if on_answer is not None:
                on_answer(sum(map(len, batch)))
            return made

        answers = await asyncio.gather(
            *(vectors_of(number, batch) for number, batch in enumerate(batches)),
            return_exceptions=True,
        )
        vectors: list[memoryview] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            vectors.extend(answer)
        return vectors

    async def _batch(self, model: str, request_id: str, rows: Rows) -> list[memoryview]:
        """The vectors of one batch; if a server fails, another one is tried."""
        failover = Failover(self._placements.of(model), (), request_id, self._timeout_s)
        while True:
            try:
                return await failover.replica.client.embed(model, request_id, rows)
            except ModelUnavailable as error:
                failover.failed(error)
                if not failover.moves():
                    raise


@value
class _Texts:
    """Inputs that are to be tokenised."""

    served: ServedModel
    inputs: Sequence[str | tuple[int, ...]]
    permit: Permit

    def work(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of long `texts`. Runs in a thread.

        A text whose length alone shows that it is too long is refused before any is tokenised.
        Raises: ContextLengthExceeded, RateLimited.
        """
        served = self.served
        limit = _limit(served)
        for index, one in enumerate(self.inputs):
            # A text has at most one token per byte, and a character has at most four bytes.
            if isinstance(one, str) and 4 * len(one) > limit:
                fewest = served.renderer.fewest_tokens_of(one)
                if fewest > limit:
                    raise _too_long(served, index, f"at least {fewest}")
        self.permit.check(served.renderer.fewest_tokens_of("".join(texts)))
        self.permit.begin()
        rows: list[list[int]] = []
        for group in served.renderer.encode_many(texts):
            rows += group
            if max(map(len, group)) > limit:
                # The texts after it need not be tokenised to refuse the request.
                wrong = next(at for at, row in enumerate(rows) if len(row) > limit)
                places = [at for at, one in enumerate(self.inputs) if isinstance(one, str)]
                raise _too_long(served, places[wrong], f"{len(rows[wrong])}")
        return rows


async def _rows(asked: _Texts, owner: str, threads: FairThreads) -> Rows:
    """Tokenises the texts among the inputs. Inputs that are token ids stay as they are."""
    inputs = asked.inputs
    texts = [one for one in inputs if isinstance(one, str)]
    if not texts:
        asked.permit.begin()
        return cast("Rows", inputs)
    size = sum(map(len, texts))
    if size < LONG_PROMPT_CHARACTERS:
        asked.permit.begin()
        encoded = asked.served.renderer.encode_few(texts)
    else:
        encoded = await threads.run(owner, size, partial(asked.work, texts))
    if len(texts) == len(inputs):
        return encoded
    left = iter(encoded)
    return [next(left) if isinstance(one, str) else one for one in inputs]


def _limit(served: ServedModel) -> int:
    return min(served.manifest.max_input_len, served.model.context_tokens)


def _too_long(served: ServedModel, index: int, tokens: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"`input[{index}]` has {tokens} tokens; `{served.model.id}` takes {_limit(served)}.",
        param="input",
    )


def _check(served: ServedModel, rows: Rows) -> None:
    limit = _limit(served)
    vocabulary = served.manifest.vocab_size
    # Checks all inputs at once, which is fast; only if that fails, the loop finds the wrong one.
    lengths = list(map(len, rows))
    if (
        min(lengths) > 0
        and max(lengths) <= limit
        and min(map(min, rows)) >= 0
        and max(map(max, rows)) < vocabulary
    ):
        return
    for index, row in enumerate(rows):
        if not row:
            raise InvalidRequest(f"`input[{index}]` has no tokens.", param="input")
        if len(row) > limit:
            raise _too_long(served, index, f"{len(row)}")
        if not 0 <= min(row) <= max(row) < vocabulary:
            raise InvalidRequest(
                f"`input[{index}]` has a token outside 0 to {vocabulary - 1}.", param="input"
            )
