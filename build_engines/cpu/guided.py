"""Guided decoding: which tokens a grammar allows next, by llguidance."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import llguidance
import numpy as np
import numpy.typing as npt

from build_engines.serving.request import Guide, RequestError

logger = logging.getLogger(__name__)

#: What stands in llguidance's texts, and what is said of it: they quote the grammar and the answer.
_FAULTS = (
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

#: Words of JSON Schema itself: that a refusal is about one of them says nothing of a caller's own.
_KEYWORD = re.compile(
    r"\b(?:additionalProperties|allOf|anyOf|exclusiveMaximum|exclusiveMinimum|"
    r"maxItems|maxLength|maxProperties|minItems|minLength|minProperties|"
    r"multipleOf|oneOf|patternProperties|prefixItems|"
    r"unevaluatedItems|unevaluatedProperties|uniqueItems)\b"
)

_ANY_OBJECT = json.dumps({"type": "object"})
#: Unbounded white space lets a weak model write blanks until its limit.
_JSON_DEFAULTS = {"whitespace_pattern": r"[\x20\x0A]{0,20}"}


class GuideCompiler:
    """Turns guides into matchers over one tokenizer. Thread-safe.

    A tokenizer that llguidance cannot read makes guides `unavailable`, and nothing else.
    """

    def __init__(self, tokenizer_json: Path, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._vocab_size = vocab_size
        #: Why no guide works with this tokenizer; empty when they do.
        self.unavailable = ""
        try:
            self._tokenizer = llguidance.LLTokenizer(
                str(tokenizer_json), n_vocab=vocab_size, eos_token=list(end_ids)
            )
        except Exception as error:
            self.unavailable = str(error).strip()
            logger.warning("no guided decoding with this tokenizer: %s", self.unavailable)

    def compile(self, guide: Guide) -> GuideMatcher:
        """A matcher at the start of `guide`. Raises: RequestError with the kind of fault."""
        if self.unavailable:
            raise RequestError("`guided_decoding_guide_type`: no guides with this tokenizer")
        try:
            grammar = _grammar(guide)
            problem = llguidance.LLMatcher.validate_grammar(grammar, self._tokenizer)
        except ValueError as error:
            problem = str(error)
        if problem:
            raise _unusable(guide, problem)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise _unusable(guide, matcher.get_error())
        return GuideMatcher(matcher, self._vocab_size)


class GuideMatcher:
    """Where one sequence stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def allowed(self) -> npt.NDArray[np.bool_]:
        """bool[vocab_size]: tokens that may come next. Raises: RequestError."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        bits = np.unpackbits(mask, count=self._vocab_size, bitorder="little")
        return bits.view(np.bool_)

    def advance(self, token: int) -> bool:
        """Takes `token`; returns whether nothing can follow any more. Raises: RequestError."""
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            # Its text holds the whole grammar, and what was written so far.
            raise RequestError(f"guided decoding failed: {_fault(self._matcher.get_error())}")


def _unusable(guide: Guide, problem: str) -> RequestError:
    fault = _fault(problem)
    if guide.type == "json_schema" and (keywords := dict.fromkeys(_KEYWORD.findall(problem))):
        fault += f" ({', '.join(keywords)})"
    return RequestError(f"`guided_decoding_guide` is no usable {guide.type}: {fault}")


def _fault(problem: str) -> str:
    """The kind of fault in llguidance's `problem`, in words that are not a caller's."""
    lowered = problem.lower()
    return next(
        (words for sign, words in _FAULTS if sign in lowered), "the engine cannot follow it"
    )


def _grammar(guide: Guide) -> str:
    if guide.type == "regex":
        return str(llguidance.LLMatcher.grammar_from_regex(guide.text))
    if guide.type == "ebnf_grammar":
        return str(llguidance.grammar_from("gbnf", guide.text))
    schema = _ANY_OBJECT if guide.type == "json" else guide.text
    return str(llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=_JSON_DEFAULTS))
