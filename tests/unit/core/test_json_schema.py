"""Which schemas are refused, by whose name, and what is left of one that promises nothing."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import FORMATS, check_schema, loosened

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": ["number", "null"]}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
ACCEPTED: dict[str, dict[str, Any]] = {
    "anything": {},
    "an object": POINT,
    "strings": {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^a+$"},
    "numbers": {
        "type": "number", "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 0.5,
    },
    "multiples": {"anyOf": [
        {"type": "number", "multipleOf": one} for one in (0.01, 1e-9, 2.5, 10, 10**6, 3)
    ]},
    "lists": {"type": "array", "items": POINT, "minItems": 1, "maxItems": 3},
    "tuples": {"type": "array", "prefixItems": [POINT, {"type": "null"}], "items": False},
    "maps": {
        "type": "object",
        "patternProperties": {"^a": {"const": 1}},
        "additionalProperties": {"enum": [1, "a", None]},
        "minProperties": 1,
        "maxProperties": 2,
    },
    "references": {"$ref": "#/$defs/tree", "$defs": {"tree": {
        "type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}},
    }}},
    "the largest integers": {"anyOf": [
        {"enum": [2**53 - 1, 1 - 2**53]}, {"const": 2**53 - 1}, {"const": str(2**64)},
        {"type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1},
        {"enum": [0.5, 1e20]},
    ]},
    "unions": {"anyOf": [POINT, {"allOf": [{"type": "string"}]}]},
    "disjoint alternatives": {"oneOf": [{"type": "string"}, {"type": "null"}]},
    "annotations": {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "t", "default": 1,
        "description": "d", "examples": [1], "deprecated": True, "$comment": "c", "type": "integer",
    },
    **{f"the format {name}": {"type": "string", "format": name} for name in sorted(FORMATS)},
}  # fmt: skip
REFUSED: dict[str, tuple[Any, str, str]] = {
    "an unknown keyword": ({"nullable": True}, "s.nullable", "`nullable` is not supported"),
    "far inside": (
        {"type": "object", "properties": {"x": {"type": "array", "items": {"not": {}}}}},
        "s.properties.x.items.not",
        "keyword `not` is not supported",
    ),
    "in a union": (
        {"anyOf": [{}, {"uniqueItems": True}]}, "s.anyOf[1].uniqueItems", "not supported",
    ),
    "in a definition": ({"$defs": {"a": {"if": {}}}}, "s.$defs.a.if", "not supported"),
    "in a tuple of older drafts": (
        {"items": [{"contains": {}}]}, "s.items[0].contains", "not supported",
    ),
    "an option of the engine": ({"x-guidance": {}}, "s.x-guidance", "not supported"),
    "an unknown type": ({"type": "text"}, "s.type", "must be of array, boolean"),
    "an unknown format": ({"format": "iri"}, "s.format", "known are date, date-time"),
    "a reference to elsewhere": ({"$ref": "http://a/b"}, "s.$ref", "into the schema itself"),
    "names that are none": ({"required": [1]}, "s.required", "a list of names"),
    "no values": ({"enum": []}, "s.enum", "a list of values"),
    "a look-around": ({"pattern": "(?!a)"}, "s.pattern", "look-around"),
    "a pattern that is none": ({"pattern": 1}, "s.pattern", "a regular expression"),
    "properties that are none": ({"properties": []}, "s.properties", "an object of schemas"),
    "alternatives that are none": ({"anyOf": []}, "s.anyOf", "a list of schemas"),
    "no schema": ({"items": 5}, "s.items", "must be a JSON schema"),
    "true alone": (True, "s", "must be a JSON schema"),
    "multiples of nothing": ({"multipleOf": 0}, "s.multipleOf", "a number above 0"),
    "multiples of a truth": ({"multipleOf": True}, "s.multipleOf", "a number above 0"),
    "multiples of much": ({"multipleOf": 10_007}, "s.multipleOf", "may be 10000"),
    **{
        f"a large {keyword}": (
            {"type": "integer", keyword: 2**53}, f"s.{keyword}",
            "from -9007199254740991 to 9007199254740991; 9007199254740992 was given",
        )
        for keyword in (
            "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        )
    },
    "a large bound with an exponent": ({"maximum": 1e20}, "s.maximum", "1e+20 was given"),
    "a large value": ({"enum": [1, -(2**53)]}, "s.enum", "-9007199254740992 was given"),
    "a large value far inside": (
        {"const": [{"a": [2**64]}]}, "s.const", "18446744073709551616 was given",
    ),
    "a number of many digits": ({"const": 10**5000}, "s.const", "a longer one was given"),
    "multiples of several": (
        {"allOf": [{"multipleOf": 0.997}, {"multipleOf": 991}]},
        "s.allOf[1].multipleOf",
        "least common multiple",
    ),
    "too many values": ({"enum": list(range(1001))}, "s.enum", "1000 values"),
    "too many schemas": (
        {"properties": {str(number): {} for number in range(5000)}},
        "s.properties.4999",
        "5000 schemas",
    ),
}  # fmt: skip


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


@pytest.fixture(scope="module")
def engine() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer("byte")


def engine_fault(schema: Any, engine: llguidance.LLTokenizer) -> str:
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    return str(llguidance.LLMatcher(engine, grammar, log_level=0).get_error())


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_passes_is_what_the_engine_takes(name: str, engine: llguidance.LLTokenizer) -> None:
    check_schema(ACCEPTED[name], "s")
    assert engine_fault(ACCEPTED[name], engine) == ""


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_by_its_path(name: str) -> None:
    schema, path, message = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        check_schema(schema, "s")
    assert caught.value.param == path
    assert f"`{path}`" in caught.value.message
    assert message in caught.value.message


def test_depth_is_bounded() -> None:
    check_schema(nested(32), "s")
    with pytest.raises(InvalidRequest, match="nested 32 deep"):
        check_schema(nested(33), "s")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"additionalProperties": True}, "s.additionalProperties"),
        ({"required": ["x"]}, "s.required"),
        ({"properties": {"x": {"type": "object"}}}, "s.properties.x.additionalProperties"),
        ({"type": "array"}, "s.type"),
    ],
)
def test_a_strict_schema_says_all_and_nothing_else(changes: dict[str, Any], param: str) -> None:
    check_schema(POINT, "s", strict=True)
    check_schema({**POINT, **changes}, "s")
    with pytest.raises(InvalidRequest) as caught:
        check_schema({**POINT, **changes}, "s", strict=True)
    assert caught.value.param == param


@pytest.mark.parametrize("name", REFUSED)
def test_a_loosened_schema_passes_whatever_it_was(
    name: str, engine: llguidance.LLTokenizer
) -> None:
    schema = REFUSED[name][0]
    loose = loosened(schema if isinstance(schema, dict) else {})
    check_schema(loose, "s")
    assert engine_fault(loose, engine) == ""


def test_loosening_keeps_what_can_be_enforced() -> None:
    tuples = {"type": "array", "items": [{"type": "string", "not": {}}, True]}
    assert loosened({"properties": {"a": tuples}, "not": {}, "title": "t"}) == {
        "properties": {"a": {"type": "array", "items": [{"type": "string"}, True]}}
    }
    either = [{"type": "string"}, {"type": "string", "maxLength": 3}]
    assert loosened({"oneOf": either}) == {"anyOf": either}
    assert loosened(nested(40))["items"]
    large = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "enum": [2**60]}
    assert loosened({"properties": {"a": large}}) == {
        "properties": {"a": {"type": "integer", "minimum": 0}}
    }


class Counting(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Counting.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_long_list_of_required_names_is_looked_through_once() -> None:
    names = [Counting(f"n{number}") for number in range(1000)]
    schema = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": [Counting(name) for name in reversed(names)],
        "additionalProperties": False,
    }
    Counting.compared = 0
    check_schema(schema, "s", strict=True)
    assert Counting.compared <= 4 * len(names)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"x" * 10**6: {"properties": {"y" * 10**6: {"not": {}}}}}},
        {"k" * 10**6: 1},
        {"type": "object", "additionalProperties": False, "properties": {"z" * 10**6: {}}},
    ],
)
def test_the_place_of_a_fault_is_short_whatever_the_names(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_schema({"type": "object"} | schema, "s", strict="k" * 10**6 not in schema)
    assert len(str(caught.value)) < 400
    assert len(caught.value.param or "") < 200


def test_a_number_that_cannot_be_written_is_no_multiple() -> None:
    with pytest.raises(InvalidRequest, match="multipleOf"):
        check_schema({"type": "integer", "multipleOf": 10**5000}, "s")
