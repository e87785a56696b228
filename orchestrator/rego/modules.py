"""Operators' own Rego modules: what they may contain, checked before one is saved.

Two engines run them and differ in special cases, and the embedded one is silent where it should
report an error: an undefined variable, a misspelt member of `input` or a missing built-in makes a
rule undefined, and a `deny` that is undefined lets the request through. So a module must stay
inside a subset in which such mistakes can be detected, and is refused with line and column.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.errors import InvalidRequest

PACKAGE = "gateway.custom"
MAX_CHARACTERS = 65_536

BUILTINS = frozenset({
    "abs", "array.concat", "array.reverse", "array.slice", "base64.decode", "base64.encode",
    "bits.and", "bits.or", "ceil", "concat", "contains", "count", "endswith", "floor",
    "format_int", "glob.match", "indexof", "intersection", "is_array", "is_boolean", "is_null",
    "is_number", "is_object", "is_set", "is_string", "lower", "max", "min", "object.filter",
    "object.get", "object.keys", "object.remove", "object.union", "product", "regex.match",
    "replace", "round", "semver.compare", "sort", "split", "sprintf", "startswith",
    "strings.any_prefix_match", "strings.any_suffix_match", "substring", "sum", "to_number",
    "trim", "trim_left", "trim_prefix", "trim_right", "trim_space", "trim_suffix", "type_name",
    "union", "upper",
})  # fmt: skip
"""Built-ins that both engines have, that need no outside data and are deterministic."""

# The members of `input`. `None` marks a value, `...` marks members of any name.
INPUT: Mapping[str, Any] = {
    "tenant": {"id": None, "api_disabled": None},
    "key": {
        "id": None, "label": None, "admin": None, "plan": None, "allowed_models": None,
        "route_policy": None,
    },
    "model": {"id": None, "names": None, "requested": None, "task": None},
    "request": {"route_hint": None},
    "client": {"ip": None, "in_networks": None},
    "time": {
        "in_window": None, "date": None, "weekday": None, "hour": None, "minute": None,
        "timezone": None,
    },
    "policy": {
        "id": None, "version": None, "api_disabled": None, "allowed_models": None,
        "allowed_routes": None, "plan_models": ...,
    },
}  # fmt: skip

_TOKEN = re.compile(
    r"""(?P<skip>[ \t\r]+|\#[^\n]*)
    |(?P<line>\n)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>:=|==|!=|<=|>=|[-+*/%&|<>=.,;:()\[\]{}])
    |(?P<wrong>.)""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = frozenset({
    "as", "contains", "default", "else", "every", "false", "if", "import", "in", "not", "null",
    "package", "some", "true", "with",
})  # fmt: skip
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int
    column: int
    depth: int
    first: bool
    """Whether it is the first on its line."""
    touches: bool
    """Whether nothing stands between it and the token before."""


def check_module(source: str, param: str = "module") -> None:
    """Raises: InvalidRequest, with line and column, unless `source` is inside the subset."""
    _Check(source, param).run()


class _Check:
    """One module under examination."""

    def __init__(self, source: str, param: str) -> None:
        self._source = source
        self._param = param

    def run(self) -> None:
        if len(self._source) > MAX_CHARACTERS:
            raise InvalidRequest(
                f"`{self._param}` may have {MAX_CHARACTERS} characters at most;"
                f" it has {len(self._source)}.",
                param=self._param,
            )
        tokens = list(self._tokens())
        statements = list(_statements(tokens))
        rules = self._without_head(statements)
        names = {_head_name(rule) for rule in rules}
        functions = {
            rule[0].text: _arguments(rule, 1)
            for rule in rules
            if len(rule) > 1 and _is_call(rule, 0) and rule[1].touches
        }
        for rule in rules:
            self._check_head(rule)
            self._check_names(rule, names, functions)
        self._check_recursion(rules, names)
        if "deny" not in names and "local_only" not in names:
            raise self._wrong(
                tokens[0], "defines neither `deny` nor `local_only`, so it does nothing"
            )

    def _tokens(self) -> Iterator[_Token]:
        line, line_start, first, depth, end = 1, 0, True, 0, 0
        for match in _TOKEN.finditer(self._source):
            kind, text, start = match.lastgroup or "", match.group(), match.start()
            if kind == "line":
                line, line_start, first = line + 1, match.end(), True
            if kind in ("skip", "line"):
                continue
            depth -= text in _CLOSING
            token = _Token(kind, text, line, start - line_start + 1, depth, first, start == end)
            if kind == "wrong" or depth < 0:
                raise self._wrong(token, f"has a `{text}` that does not belong there")
            depth += kind == "sign" and text in _OPENING
            first, end = False, match.end()
            yield token
            if kind == "text" and "\n" in text:
                line += text.count("\n")
                line_start = start + text.rindex("\n") + 1
        if depth:
            raise self._wrong(token, "ends inside a bracket")

    def _without_head(self, statements: Sequence[Sequence[_Token]]) -> list[Sequence[_Token]]:
        """Checks package and import; returns the rules after them."""
        if not statements or _joined(statements[0]) != f"package {PACKAGE}":
            at = statements[0][0] if statements else _Token("", "", 1, 1, 0, True, False)
            raise self._wrong(at, f"must begin with `package {PACKAGE}`")
        if len(statements) < 2 or _joined(statements[1]) != "import rego.v1":
            at = statements[1][0] if len(statements) > 1 else statements[0][0]
            raise self._wrong(at, "must have `import rego.v1` after its package")
        for statement in statements[2:]:
            if statement[0].text in ("import", "package"):
                raise self._wrong(statement[0], "may import nothing else")
        return list(statements[2:])

    def _check_head(self, rule: Sequence[_Token]) -> None:
        """Checks that complete rules have `:=` or `if`, and that `deny` is a set."""
        flat = [token.text for token in rule if token.depth == 0]
        head = 1 if flat[0] == "default" else 0
        if len(rule) <= head or rule[head].kind != "name" or rule[head].text in _WORDS:
            raise self._wrong(rule[0], f"has `{rule[0].text}` where a rule should begin")
        name = rule[head].text
        if name == "deny" and (head or len(rule) < 2 or rule[1].text != "contains"):
            raise self._wrong(rule[head], "must write `deny` as `deny contains … if { … }`")
        if not {":=", "if", "contains"} & set(flat):
            raise self._wrong(rule[head], f"must write the rule `{name}` with `if` or `:=`")
        if name in ("input", "data"):
            raise self._wrong(rule[head], f"may not define `{name}`")

    def _check_names(
        self, rule: Sequence[_Token], names: set[str], functions: Mapping[str, int]
    ) -> None:
        known = names | _declared(rule)
        for index, token in enumerate(rule):
            if token.kind != "name" or _is_member(rule, index):
                continue
            if token.text in _WORDS and not _is_call(rule, index):
                continue
            if token.text == "input":
                self._check_path(rule, index)
            elif _is_call(rule, index):
                self._check_call(rule, index, functions)
            elif token.text == "data":
                raise self._wrong(token, "may not read `data`: there is none")
            elif token.text != "_" and token.text not in known:
                raise self._wrong(token, f"uses `{token.text}`, which nothing defines")

    def _check_recursion(self, rules: Sequence[Sequence[_Token]], names: set[str]) -> None:
        """Refuses rules that depend on themselves: the engines do so only during evaluation."""
        uses: dict[str, set[str]] = {name: set() for name in names}
        for rule in rules:
            used = {
                token.text
                for index, token in enumerate(rule)
                if token.kind == "name" and token.text in names and not _is_member(rule, index)
            }
            # The head itself is not a use, but a second mention is.
            name = _head_name(rule)
            mentions = sum(token.text == name for token in rule if token.kind == "name")
            uses[name] |= used if mentions > 1 else used - {name}
        for rule in rules:
            if _reaches(uses, _head_name(rule)):
                raise self._wrong(rule[0], f"has a rule `{_head_name(rule)}` that needs itself")

    def _check_call(self, rule: Sequence[_Token], index: int, functions: Mapping[str, int]) -> None:
        name = _dotted(rule, index)
        if name not in BUILTINS and name not in functions:
            raise self._wrong(rule[index], f"calls `{name}`, which is no function that it may use")
        bracket = next(i for i in range(index, len(rule)) if rule[i].text == "(")
        if name in functions and _arguments(rule, bracket) != functions[name]:
            raise self._wrong(
                rule[index], f"calls `{name}` with {_arguments(rule, bracket)} arguments"
            )

    def _check_path(self, rule: Sequence[_Token], index: int) -> None:
        """Refuses misspelt members, which would be undefined, as would a `deny` that reads one."""
        inside: Any = INPUT
        path = "input"
        for step, token in _path(rule, index):
            if not isinstance(inside, Mapping):
                return
            if step is None:
                raise self._wrong(token, f"must name the member of `{path}` that it reads")
            if step not in inside:
                raise self._wrong(token, f"reads `{path}.{step}`; there are {', '.join(inside)}")
            inside, path = inside[step], f"{path}.{step}"

    def _wrong(self, token: _Token, what: str) -> InvalidRequest:
        return InvalidRequest(
            f"`{self._param}`, line {token.line}, column {token.column}: the module {what}.",
            param=self._param,
        )


def _statements(tokens: Sequence[_Token]) -> Iterator[Sequence[_Token]]:
    """Yields package, imports and rules: each starts a line outside of brackets."""
    start = 0
    for index, token in enumerate(tokens):
        begins = token.first and token.depth == 0 and token.text not in ("}", ")", "]", "else")
        if begins and index > start and tokens[index - 1].text not in _UNFINISHED:
            yield tokens[start:index]
            start = index
    if tokens:
        yield tokens[start:]


_UNFINISHED = frozenset(
    {":=", "=", "if", "contains", "else", "==", ",", "in", "not", "|", "&", "+"}
)


def _joined(statement: Sequence[_Token]) -> str:
    words = statement[0].text + " " + "".join(token.text for token in statement[1:])
    return words.strip()


def _reaches(uses: Mapping[str, set[str]], name: str) -> bool:
    """Whether `name` depends on itself, directly or not."""
    seen: set[str] = set()
    waiting = list(uses[name])
    while waiting:
        used = waiting.pop()
        if used == name:
            return True
        if used not in seen:
            seen.add(used)
            waiting += uses[used]
    return False


def _head_name(rule: Sequence[_Token]) -> str:
    return rule[1].text if rule[0].text == "default" and len(rule) > 1 else rule[0].text


def _is_member(rule: Sequence[_Token], index: int) -> bool:
    """Whether the name comes after a dot."""
    return index > 0 and rule[index - 1].text == "."


def _is_call(rule: Sequence[_Token], index: int) -> bool:
    """Whether the name, with its members after dots, is directly followed by a bracket."""
    index += 1
    while index + 1 < len(rule) and rule[index].text == "." and rule[index + 1].kind == "name":
        index += 2
    return index < len(rule) and rule[index].text == "(" and rule[index].touches


def _arguments(rule: Sequence[_Token], bracket: int) -> int:
    """Counts the arguments inside the bracket that opens at `bracket`."""
    depth = rule[bracket].depth
    inside = list(itertools.takewhile(lambda token: token.depth > depth, rule[bracket + 1 :]))
    commas = sum(token.text == "," and token.depth == depth + 1 for token in inside)
    return commas + 1 if inside else 0


def _dotted(rule: Sequence[_Token], index: int) -> str:
    name = rule[index].text
    while index + 2 < len(rule) and rule[index + 1].text == "." and rule[index + 2].kind == "name":
        index += 2
        name += "." + rule[index].text
    return name


def _path(rule: Sequence[_Token], index: int) -> Iterator[tuple[str | None, _Token]]:
    """Yields the steps after `input`: members by name, `None` for a computed one."""
    index += 1
    while index + 1 < len(rule):
        sign, token = rule[index], rule[index + 1]
        if sign.text == "." and token.kind == "name":
            yield token.text, token
            index += 2
        elif sign.text == "[" and sign.touches:
            constant = (
                token.kind == "text" and index + 2 < len(rule) and rule[index + 2].text == "]"
            )
            yield (token.text[1:-1] if constant else None), token
            if not constant:
                return
            index += 3
        else:
            return


def _declared(rule: Sequence[_Token]) -> set[str]:
    """Returns the variables that the rule defines: by `:=`, `some`, `every`, or as an argument."""
    declared: set[str] = set()
    if len(rule) > 1 and rule[1].text == "(" and rule[1].touches:
        declared |= _names_until(rule, 2, lambda token: token.text == ")" and token.depth == 0)
    for index, token in enumerate(rule):
        if token.text in ("some", "every") and token.kind == "name":
            # `some i` ends with its line; `some k, v in …` ends at `in`.
            declared |= _names_until(rule, index + 1, functools.partial(_ends, token.line))
        elif token.text == ":=":
            declared |= _names_before(rule, index)
    return declared


def _ends(line: int, token: _Token) -> bool:
    return token.text in ("in", ";", "}") or token.line != line


def _names_until(rule: Sequence[_Token], start: int, ends: Callable[[_Token], bool]) -> set[str]:
    names = set()
    for token in rule[start:]:
        if ends(token):
            break
        if token.kind == "name" and token.text not in _WORDS:
            names.add(token.text)
    return names


def _names_before(rule: Sequence[_Token], index: int) -> set[str]:
    """Returns the name, or those of an array pattern, on the left of `:=`."""
    before = rule[index - 1] if index else None
    if before is None:
        return set()
    if before.kind == "name":
        return {before.text}
    if before.text != "]":
        return set()
    names = set()
    for token in reversed(rule[: index - 1]):
        if token.text == "[" and token.depth == before.depth:
            break
        if token.kind == "name":
            names.add(token.text)
    return names
