"""Chooses the next token from logits, with separate settings for each sequence of a batch."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from build_engines.cpu.guided import GuideMatcher
from build_engines.serving.request import Request, Sampling

Row = npt.NDArray[np.float32]

#: Logits this far below the best one (after temperature) are ignored at first: each weighs less
#: than 1e-6 of it. They are included again whenever they could change the result.
_NEAR = 14.0
_CANDIDATES = 1024
#: Below this temperature only the best token matters, and logits would overflow.
_COLDEST = 1e-5
_NEVER = np.float32(-np.inf)
_DRAWS = 64


class Chooser:
    """The sampling state of one sequence: random numbers, counts and grammar position."""

    def __init__(self, request: Request, vocab_size: int, matcher: GuideMatcher | None) -> None:
        self._sampling = request.sampling
        self._request = request
        self._matcher = matcher
        self._random = np.random.Generator(np.random.Philox(key=request.sampling.seed))
        self._draws: list[float] = []
        self._counts: Row | None = None
        self._seen: npt.NDArray[np.bool_] | None = None
        sampling = request.sampling
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = np.zeros(vocab_size, np.float32)
        if sampling.repetition_penalty != 1.0:
            self._seen = np.zeros(vocab_size, np.bool_)
            self._seen[request.input_ids] = True
        self._held_back = _held_back(request)
        self._plain = sampling.plain and matcher is None and not self._held_back
        #: Whether the largest raw logit is the answer; a batch then finds all of them in one call.
        self.takes_largest = self._plain and sampling.greedy

    def choose(self, logits: Row, output: list[int]) -> int:
        """Returns the next token after `output`; does not change `logits` float32[vocab_size]."""
        if not self._plain:
            logits = self._adjusted(logits.copy(), output)
        if self._sampling.greedy:
            return int(logits.argmax())
        return draw(logits, self._sampling, self._next_draw())

    def accept(self, token: int) -> bool:
        """Records an output token; returns True when the grammar ends with it."""
        if self._counts is not None:
            self._counts[token] += 1.0
        if self._seen is not None:
            self._seen[token] = True
        return self._matcher is not None and self._matcher.advance(token)

    def _next_draw(self) -> float:
        if not self._draws:
            self._draws = cast("list[float]", self._random.random(_DRAWS).tolist())
            self._draws.reverse()
        return self._draws.pop()

    def _adjusted(self, logits: Row, output: list[int]) -> Row:
        sampling = self._sampling
        if self._seen is not None:
            seen = logits[self._seen]
            penalty = np.float32(sampling.repetition_penalty)
            logits[self._seen] = np.where(seen > 0, seen / penalty, seen * penalty)
        if self._counts is not None:
            logits -= np.float32(sampling.frequency_penalty) * self._counts
            logits -= np.float32(sampling.presence_penalty) * (self._counts > 0)
        if sampling.bias is not None:
            logits += sampling.bias
        for word in sampling.bad_words:
            if self._ends_with(word[:-1], output):
                logits[word[-1]] = _NEVER
        if self._matcher is not None:
            logits[~self._matcher.allowed()] = _NEVER
        if self._held_back and len(output) < self._request.min_tokens:
            ends = logits[self._held_back]
            logits[self._held_back] = _NEVER
            if logits.max() == _NEVER:
                # A complete grammar allows only the end.
                logits[self._held_back] = ends
        return logits

    def _ends_with(self, prefix: tuple[int, ...], output: list[int]) -> bool:
        missing = len(prefix) - len(output)
        if missing <= 0:
            return not prefix or tuple(output[-len(prefix) :]) == prefix
        prompt = self._request.input_ids[-missing:].tolist()
        return tuple(prompt + output) == prefix


def draw(logits: Row, sampling: Sampling, uniform: float) -> int:
    """Samples `logits` with `sampling`: returns the token at `uniform`, a number in [0, 1).

    The order is TensorRT-LLM's: temperature, top-k, top-p over the result of top-k, then min-p.
    Equal logits at a limit are all kept.
    """
    best = logits.max()
    if not np.isfinite(best):
        # All tokens are forbidden (or the model overflowed): the largest is as good as any.
        return int(logits.argmax())
    scaled = (logits - best) / np.float32(max(sampling.temperature, _COLDEST))
    top_k = sampling.top_k if 0 < sampling.top_k < len(logits) else 0
    if not top_k and sampling.top_p >= 1.0:
        return _draw_all(scaled, sampling.min_p, uniform)
    ids, weights = _candidates(scaled, top_k, sampling.top_p)
    if sampling.min_p > 0.0:
        weights = np.where(weights >= sampling.min_p, weights, 0.0)
    return int(ids[_position(weights, uniform)])


def top_log_probs(logits: Row, count: int) -> tuple[npt.NDArray[np.int32], Row]:
    """Returns the `count` most probable tokens of raw `logits`, best first, with
    log-probabilities.
    """
    count = min(count, len(logits))
    ids = np.argpartition(-logits, count - 1)[:count] if count < len(logits) else np.arange(count)
    ids = ids[np.lexsort((ids, -logits[ids]))].astype(np.int32)
    return ids, (logits[ids] - log_total(logits)).astype(np.float32)


def log_total(logits: Row) -> float:
    """Returns the log of the sum of exponentials."""
    best = float(logits.max())
    return best + float(np.log(np.exp(logits - np.float32(best)).sum(dtype=np.float64)))


def _draw_all(scaled: Row, min_p: float, uniform: float) -> int:
    weights = np.exp(scaled)
    if min_p > 0.0:
        weights[weights < min_p] = 0.0
    return _position(weights, uniform)


def _position(weights: Row, uniform: float) -> int:
    sums = np.cumsum(weights, dtype=np.float64)
    return int(sums.searchsorted(uniform * sums[-1], side="right").clip(max=_last(weights)))


def _last(weights: Row) -> int:
    return int(np.flatnonzero(weights)[-1])


def _candidates(scaled: Row, top_k: int, top_p: float) -> tuple[npt.NDArray[np.intp], Row]:
    """Returns the ids that pass top-k and top-p, in id order, with unnormalised weights."""
    total = None if top_k or top_p >= 1.0 else float(np.exp(scaled).sum(dtype=np.float64))
    ids = np.flatnonzero(scaled > -_NEAR)
    if total is not None and len(ids) > _CANDIDATES:
        values = scaled[ids]
        ids = ids[values >= np.partition(values, -_CANDIDATES)[-_CANDIDATES]]
    if len(ids) < top_k:
        ids = np.flatnonzero(scaled > _NEVER)
    kept = _kept(scaled, ids, top_k, top_p, total)
    if total is not None and kept is None:
        ids = np.flatnonzero(scaled > _NEVER)
        kept = _kept(scaled, ids, top_k, top_p, None)
    assert kept is not None  # None is possible only with a given total
    return kept


def _kept(
    scaled: Row, ids: npt.NDArray[np.intp], top_k: int, top_p: float, total: float | None
) -> tuple[npt.NDArray[np.intp], Row] | None:
    """Applies top-k and top-p to `ids`. `top_p` is a share of `total`, by default the weight of
    the top-k tokens. Returns None if the `ids` do not have that much weight.
    """
    values = scaled[ids]
    ordered = np.sort(values)[::-1]
    if top_k:
        ordered = ordered[ordered >= ordered[min(top_k, len(ordered)) - 1]]
    border = ordered[-1]
    if top_p < 1.0:
        sums = np.cumsum(np.exp(ordered), dtype=np.float64)
        wanted = top_p * (float(sums[-1]) if total is None else total)
        if sums[-1] < wanted:
            return None
        border = ordered[int(sums.searchsorted(wanted))]
    keep = values >= border
    return ids[keep], np.exp(values[keep])


def _held_back(request: Request) -> list[int]:
    """Returns the tokens that are forbidden before `min_tokens` are generated."""
    if not request.min_tokens:
        return []
    single = [word[0] for word in request.stop_words if len(word) == 1]
    return [*single, request.end_id] if request.end_id >= 0 else single
