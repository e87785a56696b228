"""Translates guides for llguidance, and sets the limits for one guide.

Source of the limits' meaning: llguidance, `ParserLimits`. This module imports no array library, so
that a process that only tries guides stays small.
"""

from __future__ import annotations

import json

import llguidance

_ANY_OBJECT = json.dumps({"type": "object"})
#: With unbounded white space, a weak model may write blanks until its token limit.
_JSON_DEFAULTS = {"whitespace_pattern": r"[\x20\x0A]{0,20}"}


def limits() -> llguidance.LLParserLimits:
    """Limits of one grammar: about 20 ms to start, 10 ms for the mask of a step, 50 MB."""
    return llguidance.LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        step_max_items=50_000,
        max_lexer_states=25_000,
        max_grammar_size=200_000,
        # Verbose errors would contain the grammar and the answer.
        verbose_errors=False,
    )


def grammar(kind: str, text: str) -> str:
    """Returns the grammar of a guide. Raises: ValueError, whose text may quote the guide."""
    if kind == "regex":
        return str(llguidance.LLMatcher.grammar_from_regex(text))
    if kind == "ebnf_grammar":
        return str(llguidance.grammar_from("gbnf", text))
    schema = _ANY_OBJECT if kind == "json" else text
    return str(llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=_JSON_DEFAULTS))


def problem(kind: str, text: str) -> str:
    """Returns why the guide cannot be used, empty if it can; the text may quote the guide."""
    try:
        made = grammar(kind, text)
    except (ValueError, RecursionError) as error:
        return str(error) or "it is too complex"
    found = str(llguidance.LLMatcher.validate_grammar(made, limits=limits()))
    if found:
        return found
    matcher = llguidance.LLMatcher(
        llguidance.LLTokenizer("byte"), made, log_level=0, limits=limits()
    )
    matcher.compute_bitmask()
    return str(matcher.get_error()) if matcher.is_error() else ""
