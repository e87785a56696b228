"""One request inside the scheduler: its tokens, its blocks and its end."""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt

from build_engines.cpu.blocks import BlockPool, Digest, Reservation, prefix_digests
from build_engines.cpu.guided import GuideMatcher
from build_engines.cpu.sampler import Chooser, log_total, top_log_probs
from build_engines.serving.request import FinishReason, Generation


class Sequence:
    """Extends one generation. `computed` counts the prompt tokens whose keys are in the cache."""

    def __init__(
        self, generation: Generation, vocab_size: int, block_size: int, matcher: GuideMatcher | None
    ) -> None:
        request = generation.request
        self.generation = generation
        self.prompt = request.input_ids
        self.chooser = Chooser(request, vocab_size, matcher)
        self.computed = 0
        self.blocks: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self.digests = prefix_digests(self.prompt.tolist(), block_size, request.cache_salt)
        self._block_size = block_size
        self._reservation: Reservation | None = None
        self._published = 0
        self._single_stops = frozenset(word[0] for word in request.stop_words if len(word) == 1)
        self._long_stops = tuple(word for word in request.stop_words if len(word) > 1)
        self._wants_log_probs = request.log_probs or request.top_log_probs > 0

    @property
    def prefilling(self) -> bool:
        """Whether prompt tokens still have to be computed."""
        return self.computed < len(self.prompt)

    @property
    def last_token(self) -> int:
        """The newest output token, which the next step feeds."""
        return self.generation.token_ids[-1]

    @property
    def position(self) -> int:
        """The position of the newest output token: the number of tokens before it."""
        return len(self.prompt) + len(self.generation.token_ids) - 1

    def blocks_needed(self) -> int:
        """Blocks for the prompt and the max output; the very last token is never fed."""
        return -(
            -(len(self.prompt) + self.generation.request.max_new_tokens - 1) // self._block_size
        )

    def reserve(self, pool: BlockPool) -> bool:
        """Reserves all blocks that this sequence may need, or none."""
        # At least one prompt token is computed again: its logits give the first output token.
        usable = (len(self.prompt) - 1) // self._block_size
        reservation = pool.reserve(self.digests[:usable], self.blocks_needed())
        if reservation is None:
            return False
        self._reservation = reservation
        self.blocks = np.asarray(reservation.blocks, np.int32)
        self.computed = reservation.reused * self._block_size
        self._published = reservation.reused
        self.generation.cache.reused_blocks = reservation.reused
        self.generation.cache.new_blocks = len(reservation.blocks) - reservation.reused
        return True

    def publish(self, pool: BlockPool, digests: Items[Digest], tokens: int) -> None:
        """Publishes the full blocks among the first `tokens`."""
        assert self._reservation is not None
        full = min(tokens // self._block_size, len(digests))
        for index in range(self._published, full):
            pool.publish(self._reservation.blocks[index], digests[index])
        self._published = max(self._published, full)

    def release(self, pool: BlockPool, *, trusted: bool) -> None:
        """Releases the blocks; `trusted` says that all tokens fed were really computed."""
        if self._reservation is None:
            return
        if trusted and not self.prefilling:
            output = self.generation.token_ids
            # After `end_id` all tokens were fed, otherwise all but the last; leaving out the last
            # one is right for both.
            known = [*self.prompt.tolist(), *output[:-1]]
            if len(known) // self._block_size > self._published:
                salt = self.generation.request.cache_salt
                digests = prefix_digests(known, self._block_size, salt)
                self.publish(pool, digests, len(known))
        pool.release(self._reservation.blocks)
        self._reservation = None

    def take(self, logits: npt.NDArray[np.float32], largest: int, now_ns: int) -> bool:
        """Chooses and records one token of `logits` float32[vocab_size]; True when it finished."""
        generation, chooser = self.generation, self.chooser
        output = generation.token_ids
        token = largest if chooser.takes_largest else chooser.choose(logits, output)
        timing = generation.timing
        timing.last_token = now_ns
        if not timing.first_token:
            timing.first_token = now_ns
        if token == generation.request.end_id:
            generation.close("stop")
            return True
        if self._wants_log_probs:
            self._record_log_probs(logits, token)
        ended = chooser.accept(token)
        output.append(token)
        finish = self._finish(token, output, ended)
        if finish is None:
            return False
        generation.close(finish)
        return True

    def _finish(self, token: int, output: list[int], ended: bool) -> FinishReason | None:
        request = self.generation.request
        if ended or token in self._single_stops:
            return "stop"
        long = self._long_stops if len(output) >= request.min_tokens else ()
        if any(tuple(output[-len(word) :]) == word for word in long):
            return "stop"
        return "length" if len(output) >= request.max_new_tokens else None

    def _record_log_probs(self, logits: npt.NDArray[np.float32], token: int) -> None:
        generation = self.generation
        generation.log_probs.append(float(logits[token]) - log_total(logits))
        if generation.request.top_log_probs:
            best = top_log_probs(logits, generation.request.top_log_probs)
            generation.top_log_probs.append(best)
