"""The requests to an engine and its output."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

FinishReason = Literal["stop", "length", "cancelled", "error"]
GuideType = Literal["json", "json_schema", "regex", "ebnf_grammar"]
GUIDE_TYPES: tuple[GuideType, ...] = ("json", "json_schema", "regex", "ebnf_grammar")


class RequestError(ValueError):
    """One request cannot be served; the text names the tensor, the limit and the value."""


class QueueFullError(RequestError):
    """The max number of requests is waiting already."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one engine. `vocab_size` is the width of its logits."""

    max_batch_size: int
    max_queue_size: int
    max_input_len: int
    max_seq_len: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen. `top_k` 0 and `top_p` 1 mean no restriction; `top_k` 1 is greedy.

    `bias` is float32[vocab_size]. The repetition penalty counts prompt and output; presence and
    frequency count only the output (as at OpenAI).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: npt.NDArray[np.float32] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()

    @property
    def greedy(self) -> bool:
        """Whether sampling needs no random number."""
        return self.top_k == 1

    @property
    def plain(self) -> bool:
        """Whether the model's logits are used unchanged."""
        return (
            self.bias is None
            and not self.bad_words
            and self.repetition_penalty == 1.0
            and self.presence_penalty == 0.0
            and self.frequency_penalty == 0.0
        )


@dataclass(frozen=True, slots=True)
class Guide:
    """A grammar that the output must follow."""

    type: GuideType
    text: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One checked request. With `end_id` -1 no token ends it; the output excludes `end_id` but
    includes stop words. `top_log_probs` -1 means no alternatives. Cached parts of a prompt are used
    only for requests with the same `cache_salt`.
    """

    input_ids: npt.NDArray[np.int32]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    end_id: int = -1
    stop_words: tuple[tuple[int, ...], ...] = ()
    min_tokens: int = 0
    log_probs: bool = False
    top_log_probs: int = 0
    guide: Guide | None = None
    cache_salt: int = 0


@dataclass(slots=True)
class Timing:
    """Monotonic clock readings in ns; 0 for an event that has not happened."""

    arrival: int = 0
    first_scheduled: int = 0
    first_token: int = 0
    last_token: int = 0


@dataclass(slots=True)
class CacheUse:
    """The numbers of key/value blocks of one request."""

    reused_blocks: int = 0
    new_blocks: int = 0


class Generation:
    """The growing output of one request. The engine thread appends; any thread may read.

    Log-probabilities are appended before their token, so a reader that takes `len(token_ids)`
    first finds everything up to there. `finish` is set last.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.token_ids: list[int] = []
        self.log_probs: list[float] = []
        self.top_log_probs: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]] = []
        self.timing = Timing()
        self.cache = CacheUse()
        self.error: str | None = None
        self.finish: FinishReason | None = None
        self.cancel_requested = False
        self._done = threading.Event()

    def close(self, finish: FinishReason, error: str | None = None) -> None:
        """Ends the generation; later calls have no effect."""
        if self.finish is None:
            self.error = error
            self.finish = finish
            self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether the generation ended within `timeout_s`."""
        return self._done.wait(timeout_s)
