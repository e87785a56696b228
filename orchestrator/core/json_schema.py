"""Refuses JSON schemas that engines cannot enforce, before any work starts.

Accepted are the keywords that llguidance enforces while it decodes, and annotations, which change
nothing. Any other keyword would be a promise that the engine does not keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.schema_size import check_characters, check_levels, check_size, own_size, size

MAX_DEPTH = 32
MAX_SCHEMAS = 5_000
MAX_ENUM_VALUES = 1_000
MAX_MULTIPLE = 10_000
"""Max least common multiple of all `multipleOf`, without powers of ten.

Engines need a state for each remainder.
"""
MAX_INTEGER = 2**53 - 1
"""Max size of an integer that is compared with: engines compute in float64."""
_MAX_SHOWN = 64
"""Max characters of a name in a path: each schema below has its own path, so long ones add up."""

TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
FORMATS = frozenset(
    {
        "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
        "unknown",
    }
)  # fmt: skip
_ENFORCED = frozenset(
    {
        "type", "enum", "const", "properties", "required", "additionalProperties",
        "patternProperties", "minProperties", "maxProperties", "items", "prefixItems",
        "additionalItems", "minItems", "maxItems", "pattern", "format", "minLength", "maxLength",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "allOf",
        "anyOf", "oneOf", "$ref", "$defs", "definitions",
    }
)  # fmt: skip
_ANNOTATIONS = frozenset(
    {
        "$schema", "$id", "id", "$comment", "$anchor", "title", "description", "default",
        "examples", "example", "deprecated", "readOnly", "writeOnly", "contentMediaType",
        "contentEncoding", "discriminator",
    }
)  # fmt: skip
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")


def check_schema(schema: Mapping[str, Any], where: str, *, strict: bool = False) -> None:
    """Refuses what no engine of ours can enforce. `where` is the schema's path in the body.

    In a `strict` schema every object must forbid additional properties and require all of its own,
    as OpenAI demands. Raises: InvalidRequest, which names the keyword by its path.
    """
    if strict and schema.get("type") != "object":
        raise InvalidRequest(
            f"`{where}.type` must be `object` in a strict schema.", param=f"{where}.type"
        )
    _Check(strict, where).schema(schema, where, 1)


def loosened(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Removes what cannot be enforced: the result accepts all that `schema` does, and maybe more.

    For schemas that promise nothing, such as those of tools that are not strict.
    """
    try:
        check_size(schema, "schema")
        loose: dict[str, Any] = _loose(schema, 1)
        check_schema(loose, "schema")
    except InvalidRequest:
        return {"type": "object"}
    return loose


class _Check:
    """One walk over a schema."""

    def __init__(self, strict: bool, root: str) -> None:
        self._strict = strict
        self._root = root
        self._characters = 0
        self._schemas = 0
        self._enum_values = 0
        self._multiple = 1

    def schema(self, schema: Any, where: str, depth: int) -> None:
        if isinstance(schema, bool) and depth > 1:
            return
        if not isinstance(schema, Mapping):
            raise InvalidRequest(f"`{where}` must be a JSON schema, an object.", param=where)
        self._schemas += 1
        if depth > MAX_DEPTH or self._schemas > MAX_SCHEMAS:
            raise InvalidRequest(
                f"`{where}` is too much: a schema may be nested {MAX_DEPTH} deep and hold"
                f" {MAX_SCHEMAS} schemas.",
                param=where,
            )
        self._count_characters(schema)
        for keyword, value in schema.items():
            if keyword not in _ANY_VALUE:
                _check_keyword(keyword, value, where)
        if "enum" in schema or "multipleOf" in schema:
            self._count_enum(schema, where)
            self._count_multiple(schema, where)
        if self._strict:
            _check_strict(schema, where)
        if not _NESTING.isdisjoint(schema):
            for place, inner in _inner(schema):
                self.schema(inner, f"{where}.{place}", depth + 1)

    def _count_characters(self, schema: Mapping[str, Any]) -> None:
        """Counts the characters of `schema` itself; the schemas inside it count their own."""
        characters = self._characters
        for keyword, value in schema.items():
            if isinstance(value, str):
                characters += len(keyword) + len(value)
            elif isinstance(value, dict | list):
                characters += len(keyword)
                if keyword in _NESTING:
                    characters += own_size(value)
                else:
                    more, levels = size(value)
                    check_levels(levels, self._root)
                    characters += more
        self._characters = characters
        check_characters(characters, self._root)

    def _count_enum(self, schema: Mapping[str, Any], where: str) -> None:
        self._enum_values += len(schema.get("enum", ()))
        if self._enum_values > MAX_ENUM_VALUES:
            raise InvalidRequest(
                f"`{where}.enum` is too much: a schema may list {MAX_ENUM_VALUES} values in all.",
                param=f"{where}.enum",
            )

    def _count_multiple(self, schema: Mapping[str, Any], where: str) -> None:
        if "multipleOf" not in schema:
            return
        self._multiple = math.lcm(self._multiple, _digits(schema["multipleOf"]))
        if self._multiple > MAX_MULTIPLE:
            raise InvalidRequest(
                f"`{where}.multipleOf` is too much: the least common multiple of all may be"
                f" {MAX_MULTIPLE}, powers of ten left out.",
                param=f"{where}.multipleOf",
            )


def _check_keyword(keyword: str, value: Any, where: str) -> None:
    place = f"{where}.{keyword[:_MAX_SHOWN]}"
    if keyword not in _ENFORCED:
        raise InvalidRequest(
            f"`{place}`: the keyword `{keyword[:_MAX_SHOWN]}` is not supported.", param=place
        )
    fault = _fault(keyword, value)
    if fault:
        raise InvalidRequest(f"`{place}` {fault}.", param=place)


def _fault(keyword: str, value: Any) -> str:
    """What is wrong with a keyword's value, or "". Engines judge values that have no check here."""
    judge = _JUDGES.get(keyword)
    return "" if judge is None else judge(value)


def _named_fault(value: Any) -> str:
    return "" if isinstance(value, Mapping) else "must be an object of schemas"


def _listed_fault(value: Any) -> str:
    return "" if isinstance(value, list) and value else "must be a list of schemas"


def _type_fault(value: Any) -> str:
    if isinstance(value, str) and value in TYPES:
        return ""
    types = value if isinstance(value, list) and value else [value]
    known = all(isinstance(one, str) and one in TYPES for one in types)
    return "" if known else f"must be of {', '.join(sorted(TYPES))}"


def _format_fault(value: Any) -> str:
    known = isinstance(value, str) and value in FORMATS
    return "" if known else f"is not supported; known are {', '.join(sorted(FORMATS))}"


def _reference_fault(value: Any) -> str:
    inside = isinstance(value, str) and value.startswith("#")
    return "" if inside else "must point into the schema itself, as in `#/$defs/name`"


def _required_fault(value: Any) -> str:
    names = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return "" if names else "must be a list of names"


def _enum_fault(value: Any) -> str:
    return _values_fault(value) if isinstance(value, list) and value else "must be a list of values"


def _values_fault(value: Any) -> str:
    """Finds integers in `value`, however deep, that would be compared with as others."""
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            rest += one.values()
        elif isinstance(one, list):
            rest += one
        elif isinstance(one, int) and (fault := _bound_fault(one)):
            return fault
    return ""


def _bound_fault(value: Any) -> str:
    if not isinstance(value, int | float) or -MAX_INTEGER <= value <= MAX_INTEGER:
        return ""
    # `str` refuses integers with too many digits.
    given = f"{value} was given" if abs(value) < 10**_MAX_SHOWN else "a longer one was given"
    return f"may hold integers from -{MAX_INTEGER} to {MAX_INTEGER}; {given}"


def _multiple_fault(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return _bound_fault(value) if number and value > 0 else "must be a number above 0"


def _pattern_fault(value: Any) -> str:
    if not isinstance(value, str):
        return "must be a regular expression"
    found = next((mark for mark in _LOOK_AROUND if mark in value), "")
    return f"has a look-around (`{found}`), which is not supported" if found else ""


_JUDGES: Mapping[str, Callable[[Any], str]] = {
    **dict.fromkeys(_NAMED, _named_fault),
    **dict.fromkeys(_LISTED, _listed_fault),
    "type": _type_fault,
    "format": _format_fault,
    "$ref": _reference_fault,
    "required": _required_fault,
    "enum": _enum_fault,
    "const": _values_fault,
    **dict.fromkeys(_BOUNDS, _bound_fault),
    "pattern": _pattern_fault,
    "multipleOf": _multiple_fault,
}
_ANY_VALUE = _ANNOTATIONS | (_ENFORCED - _JUDGES.keys())
_NESTING = frozenset((*_NAMED, *_LISTED, *_SINGLE))


def _digits(number: float) -> int:
    """The digits of `number` without leading and trailing zeros."""
    return int("".join(map(str, Decimal(repr(number)).normalize().as_tuple().digits)))


def _check_strict(schema: Mapping[str, Any], where: str) -> None:
    properties = schema.get("properties")
    if schema.get("type") != "object" and properties is None:
        return
    if schema.get("additionalProperties") is not False:
        raise InvalidRequest(
            f"In `{where}`, `additionalProperties` is required to be supplied and to be false,"
            " because the schema is strict.",
            param=f"{where}.additionalProperties",
        )
    required = frozenset(schema.get("required", ()))
    missing = next((name for name in properties or () if name not in required), None)
    if missing is not None:
        raise InvalidRequest(
            f"In `{where}`, `required` must list every name in `properties`, because the schema is"
            f" strict; `{missing[:_MAX_SHOWN]}` is missing.",
            param=f"{where}.required",
        )


def _inner(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the schemas directly inside `schema`, each with its path."""
    for keyword in _NAMED:
        for name, inner in schema.get(keyword, {}).items():
            yield f"{keyword}.{name[:_MAX_SHOWN]}", inner
    for keyword in _LISTED:
        for index, inner in enumerate(schema.get(keyword, ())):
            yield f"{keyword}[{index}]", inner
    for keyword in _SINGLE:
        value = schema.get(keyword)
        if isinstance(value, list):
            for index, inner in enumerate(value):
                yield f"{keyword}[{index}]", inner
        elif value is not None:
            yield keyword, value


def _loose(schema: Any, depth: int) -> Any:
    """A copy without unsupported keywords. `oneOf` becomes `anyOf`: engines may not enforce it."""
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return True
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword not in _ENFORCED or (keyword in _JUDGES and _fault(keyword, value)):
            continue
        if keyword in _NAMED:
            kept[keyword] = {name: _loose_inner(one, depth) for name, one in value.items()}
        elif keyword in _LISTED:
            kept["anyOf" if keyword == "oneOf" else keyword] = [
                _loose_inner(one, depth) for one in value
            ]
        elif keyword in _SINGLE:
            kept[keyword] = (
                [_loose_inner(one, depth) for one in value]
                if isinstance(value, list)
                else _loose_inner(value, depth)
            )
        else:
            kept[keyword] = value
    return kept


def _loose_inner(schema: Any, depth: int) -> Any:
    return schema if isinstance(schema, bool) else _loose(schema, depth + 1)
