"""Reads tool calls that a model writes as Python: `f(a=1)`, one per line or in a list."""

from __future__ import annotations

import ast
import json
import re
import warnings

from orchestrator.rendering.output_parsers.markers import Markers
from orchestrator.rendering.output_parsers.parts import Parts

_NAME = re.compile(r"\w+(\.\w+)*")

MAX_CODE_CHARACTERS = 65_536
"""Max length of the code: it is parsed when it is complete, and parsing blocks the event loop."""


class PythonCalls:
    """Reads calls up to `closing`. Arguments must be named literals; no code is run."""

    def __init__(self, parts: Parts, *, closing: str) -> None:
        self._parts = parts
        self._closing = Markers(closing)
        self._pieces: list[str] = []
        self._room = MAX_CODE_CHARACTERS
        self.clean = False
        self.over = False
        self.failed = False

    def feed(self, text: str, at: int) -> int:
        """Reads on from `at`, at most to the end of the closing marker."""
        start, closing = self._closing.search(text, at)
        piece = text[at : min(start, at + self._room)]
        self._pieces.append(piece)
        self._room -= len(piece)
        if not self._room:
            self.failed = True
            return at + len(piece)
        if closing:
            self._give_calls()
            self.clean = self.over = not self.failed
        return start + len(closing)

    def finish(self, *, cut: bool) -> None:
        """Ends the block. A call that was cut stays text; one without its closing fence counts."""
        self.failed = cut
        if not cut:
            self._give_calls()

    def _give_calls(self) -> None:
        calls = _calls("".join(self._pieces).strip())
        self.failed = not calls
        for name, arguments in calls:
            self._parts.begin_call(name)
            self._parts.arguments(arguments)
            self._parts.end_call()


def _calls(code: str) -> list[tuple[str, str]]:
    """The names and JSON arguments of all calls; empty if `code` has anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = ast.parse(code)
        return [call for statement in module.body for call in _calls_of(statement)]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return []


def _calls_of(statement: ast.stmt) -> list[tuple[str, str]]:
    if not isinstance(statement, ast.Expr):
        raise TypeError("a statement that is no expression")
    value = statement.value
    return [_call(one) for one in (value.elts if isinstance(value, ast.List) else [value])]


def _call(node: ast.expr) -> tuple[str, str]:
    if not isinstance(node, ast.Call) or node.args:
        raise TypeError("no call with named arguments only")
    name = ast.unparse(node.func)
    if not _NAME.fullmatch(name):
        raise TypeError("a call of something without a name")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise TypeError("an argument without a name")
        arguments[keyword.arg] = ast.literal_eval(keyword.value)
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    text.encode()
    return name, text
