"""Google's schemas as JSON schemas."""

from __future__ import annotations

from typing import Any

import pytest
from google.genai.types import Schema

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import check_schema
from orchestrator.wire.gemini.json_schema import closed, json_schema

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "unspecified": ({"type": "TYPE_UNSPECIFIED", "description": "x"}, {"description": "x"}),
    "lower case": ({"type": "string"}, {"type": "string"}),
    "several types": ({"type": ["STRING", "NULL"]}, {"type": ["string", "null"]}),
    "nullable": ({"type": "STRING", "nullable": True}, {"type": ["string", "null"]}),
    "nullable words": (
        {"type": "STRING", "format": "enum", "enum": ["a"], "nullable": True},
        {"type": ["string", "null"], "enum": ["a", None]},
    ),
    "nullable choice": (
        {"anyOf": [{"type": "STRING"}], "nullable": True},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
    ),
    "formats": (
        {"type": "INTEGER", "format": "int32", "minimum": 1, "maximum": 2},
        {"type": "integer", "minimum": 1, "maximum": 2},
    ),
    "dates": ({"type": "STRING", "format": "date-time"}, {"type": "string", "format": "date-time"}),
    "counts as texts": (
        {"type": "ARRAY", "minItems": "1", "max_items": 3, "items": {"type": "NUMBER"}},
        {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "number"}},
    ),
    "in order": (
        {
            "type": "OBJECT",
            "properties": {"a_b": {"type": "BOOLEAN"}, "c": {"type": "NULL"}},
            "property_ordering": ["c", "nobody"],
            "required": ["a_b"],
            "example": {},
            "title": "T",
        },
        {
            "type": "object",
            "properties": {"c": {"type": "null"}, "a_b": {"type": "boolean"}},
            "required": ["a_b"],
            "title": "T",
        },
    ),
    "references": (
        {"defs": {"n": {"type": "STRING"}}, "anyOf": [{"ref": "#/$defs/n"}]},
        {"$defs": {"n": {"type": "string"}}, "anyOf": [{"$ref": "#/$defs/n"}]},
    ),
    "closed": (
        {"type": "OBJECT", "additionalProperties": False},
        {"type": "object", "additionalProperties": False},
    ),
    "open to some": (
        {"type": "OBJECT", "additional_properties": {"type": "STRING"}},
        {"type": "object", "additionalProperties": {"type": "string"}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_schema_of_googles_means_this_json_schema(name: str) -> None:
    given, meant = CASES[name]
    written = json_schema("responseSchema", given)
    assert written == meant
    assert list(written.get("properties", {})) == list(meant.get("properties", {}))


def test_the_objects_of_a_closed_schema_hold_what_it_names_and_nothing_else() -> None:
    inner = {"type": "object", "properties": {"properties": {"type": "string"}}}
    open_to_some = {"type": "object", "properties": {}, "additionalProperties": {"type": "null"}}
    schema = {
        "properties": {"a": inner, "b": {"type": "array", "items": inner}, "c": open_to_some},
        "$defs": {"d": {"anyOf": [inner, {"type": "object"}]}},
        "enum": [{"properties": 1}],
    }
    shut = {**inner, "additionalProperties": False}
    assert closed(schema) == {
        "properties": {"a": shut, "b": {"type": "array", "items": shut}, "c": open_to_some},
        "$defs": {"d": {"anyOf": [shut, {"type": "object"}]}},
        "enum": [{"properties": 1}],
        "additionalProperties": False,
    }


def test_every_member_of_the_sdks_schema_ends_in_one_that_engines_enforce() -> None:
    members: dict[str, Any] = {
        "anyOf": [{"type": "STRING"}],
        "items": {"type": "STRING"},
        "enum": ["a"],
        "properties": {"a": {"type": "STRING"}},
        "propertyOrdering": ["a"],
        "required": ["a"],
        "type": "OBJECT",
        "nullable": True,
        "format": "float",
        "pattern": "a",
        "title": "T",
        "description": "D",
        "additionalProperties": {"type": "STRING"},
        "defs": {"n": {"type": "STRING"}},
    }
    for name, field in Schema.model_fields.items():
        alias = field.alias or name
        value = members.get(alias, "#/$defs/n" if alias == "ref" else 1)
        schema = json_schema("schema", {"defs": members["defs"], alias: value})
        check_schema(schema, "schema")


@pytest.mark.parametrize(
    ("schema", "param", "message"),
    [
        ([], "schema", "must be a schema; [] was given"),
        ({"type": "TUPLE"}, "schema.type", '"TUPLE" was given'),
        ({"type": []}, "schema.type", "[] was given"),
        ({"properties": []}, "schema", "`schema.properties` must be an object"),
        ({"properties": {"a": 5}}, "schema.properties.a", "5 was given"),
        ({"anyOf": [{"type": "X"}]}, "schema.anyOf[0].type", '"X" was given'),
        ({"minItems": "many"}, "schema.minItems", 'must be a number; "many" was given'),
    ],
)
def test_what_is_no_schema_is_named(schema: Any, param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        json_schema("schema", schema)
    assert caught.value.param == param
    assert message in caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "ARRAY", "maxItems": float("inf")},
        {"type": "STRING", "format": ["a"]},
        {"type": "STRING", "enum": 5, "nullable": True},
        {"anyOf": 5, "nullable": True},
        {"anyOf": {"properties": [1]}},
        {"prefixItems": {"properties": [1]}},
        {"type": "OBJECT", "properties": {"a": {"not": {}}}, "propertyOrdering": [["a"], 1]},
    ],
    ids=str,
)
def test_what_is_no_schema_is_refused_and_no_fault_of_ours(schema: dict[str, Any]) -> None:
    try:
        written = closed(json_schema("w", schema))
    except InvalidRequest:
        return
    if "format" not in schema:
        with pytest.raises(InvalidRequest):
            check_schema(written, "w")


def test_a_schema_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "STRING"}
    for _ in range(5000):
        schema = {"type": "ARRAY", "items": schema}
    with pytest.raises(InvalidRequest, match="nested"):
        json_schema("w", schema)


def test_a_place_is_short_whatever_the_names() -> None:
    with pytest.raises(InvalidRequest) as caught:
        json_schema("w", {"properties": {"x" * 10**6: 1}})
    assert len(caught.value.param or "") < 100
