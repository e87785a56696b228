"""Guided decoding: which tokens a grammar allows next, by llguidance."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from queue import LifoQueue

import llguidance
import numpy as np
import numpy.typing as npt

from build_engines.cpu import grammars
from build_engines.cpu.trial import TOO_COMPLEX, TOO_LONG, Trial
from build_engines.serving.request import Guide, RequestError

logger = logging.getLogger(__name__)

#: Parts of llguidance's messages, and our replacements: its messages quote grammar and answer.
_FAULTS = (
    (TOO_LONG, TOO_LONG),
    (TOO_COMPLEX, TOO_COMPLEX),
    ("doesn't satisfy the grammar", "what was chosen does not follow it"),
    ("look-around", "look-around in a pattern is not supported"),
    ("backreference", "a backreference in a pattern is not supported"),
    ("unclosed character class", "unclosed character class in a pattern"),
    ("unclosed group", "unclosed group in a pattern"),
    ("regex parse error", "a pattern is no regular expression"),
    ("invalid regex", "a pattern is no regular expression"),
    ("too large", "it is too large"),
    ("too complex", "it is too complex"),
    ("toocomplex", "it is too complex"),
    ("limit", "it exceeds a limit of the engine"),
    ("invalid type", "an unknown `type`"),
    ("unimplemented keys", "it has keywords that are not supported"),
    ("registry", "a `$ref` to what is not in it"),
    ("unsatisfiable", "no value satisfies it"),
    ("not found", "a rule that it names is missing"),
    (" at line ", "it is no JSON"),
)

#: Keywords of JSON Schema: a refusal may name them, because they reveal nothing of the caller's.
_KEYWORD = re.compile(
    r"\b(?:additionalProperties|allOf|anyOf|exclusiveMaximum|exclusiveMinimum|"
    r"maxItems|maxLength|maxProperties|minItems|minLength|minProperties|"
    r"multipleOf|oneOf|patternProperties|prefixItems|"
    r"unevaluatedItems|unevaluatedProperties|uniqueItems)\b"
)

#: Max number of guides compiled at the same time.
COMPILERS = 2
#: Max number of guides whose verdict is cached, by digest.
_REMEMBERED = 1_024
#: Time of the engine's thread that the guide of one answer may use, at first and for each token.
_FIRST_S = 1.0
_EACH_TOKEN_S = 0.002


class GuideCompiler:
    """Turns guides into matchers for one tokenizer. Thread-safe.

    If llguidance cannot read the tokenizer, only guides are `unavailable`.
    """

    def __init__(self, tokenizer_json: Path, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._vocab_size = vocab_size
        self._limits = grammars.limits()
        self._trials: LifoQueue[Trial] = LifoQueue()
        for _ in range(COMPILERS):
            self._trials.put(Trial())
        self._verdicts = _Verdicts()
        #: Why guides do not work with this tokenizer; empty if they do.
        self.unavailable = ""
        try:
            self._tokenizer = llguidance.LLTokenizer(
                str(tokenizer_json), n_vocab=vocab_size, eos_token=list(end_ids)
            )
        except Exception as error:
            self.unavailable = str(error).strip()
            logger.warning("no guided decoding with this tokenizer: %s", self.unavailable)

    def compile(self, guide: Guide) -> GuideMatcher:
        """Returns a new matcher for `guide`. Raises: RequestError with the kind of fault."""
        if self.unavailable:
            raise RequestError("`guided_decoding_guide_type`: no guides with this tokenizer")
        self._check(guide)
        try:
            grammar = grammars.grammar(guide.type, guide.text)
        except ValueError as error:
            raise RequestError(_unusable(guide, str(error))) from None
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise RequestError(_unusable(guide, matcher.get_error()))
        return GuideMatcher(matcher, self._vocab_size)

    def close(self) -> None:
        """Ends the processes that try guides, after their current trial."""
        trials = [self._trials.get() for _ in range(COMPILERS)]
        for trial in trials:
            trial.close()
            self._trials.put(trial)

    def _check(self, guide: Guide) -> None:
        """Raises: RequestError when `guide` cannot be followed."""
        key = hashlib.sha256(f"{guide.type} {guide.text}".encode("utf-8", "replace")).digest()
        verdict = self._verdicts.of(key)
        if verdict is None:
            trial = self._trials.get()
            try:
                problem = trial.problem(guide)
            finally:
                self._trials.put(trial)
            verdict = _unusable(guide, problem) if problem else ""
            self._verdicts.note(key, verdict)
        if verdict:
            raise RequestError(verdict)


class _Verdicts:
    """Caches the verdicts of recent guides: a refusal, or empty. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def of(self, key: bytes) -> str | None:
        with self._lock:
            verdict = self._known.get(key)
            if verdict is not None:
                self._known.move_to_end(key)
            return verdict

    def note(self, key: bytes, verdict: str) -> None:
        with self._lock:
            self._known[key] = verdict
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


class GuideMatcher:
    """The position of one sequence in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._left_s = _FIRST_S

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Returns bool[vocab_size]: the tokens that may come next. Raises: RequestError."""
        began = time.thread_time()
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check(began)
        bits = np.unpackbits(mask, count=self._vocab_size, bitorder="little")
        return bits.view(np.bool_)

    def advance(self, token: int) -> bool:
        """Accepts `token`; returns whether the grammar is complete. Raises: RequestError."""
        began = time.thread_time()
        self._matcher.consume_token(token)
        self._left_s += _EACH_TOKEN_S
        self._check(began)
        return bool(self._matcher.is_stopped())

    def _check(self, began: float) -> None:
        if self._matcher.is_error():
            # Its text may contain the grammar and the output so far.
            raise RequestError(f"guided decoding failed: {_fault(self._matcher.get_error())}")
        # All other generations wait meanwhile. Only this thread's time counts, not a busy
        # machine's.
        self._left_s -= time.thread_time() - began
        if self._left_s < 0:
            raise RequestError("guided decoding failed: following the guide takes too long")


def _unusable(guide: Guide, problem: str) -> str:
    """Returns the refusal of `guide`, without quoting it."""
    fault = _fault(problem)
    if guide.type == "json_schema" and (keywords := dict.fromkeys(_KEYWORD.findall(problem))):
        fault += f" ({', '.join(keywords)})"
    return f"`guided_decoding_guide` is no usable {guide.type}: {fault}"


def _fault(problem: str) -> str:
    """Returns the kind of fault in llguidance's `problem`, without text of the caller."""
    lowered = problem.lower()
    return next(
        (words for sign, words in _FAULTS if sign in lowered), "the engine cannot follow it"
    )
