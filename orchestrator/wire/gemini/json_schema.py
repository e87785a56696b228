"""Google's schemas as JSON schemas. Source: Gemini API reference, Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import FORMATS
from orchestrator.core.schema_size import check_size
from orchestrator.http.bodies import shown
from orchestrator.wire.gemini.request import camel

_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
_COUNTS = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
)
_PLAIN = frozenset(
    {
        "title", "description", "pattern", "default", "required", "minimum", "maximum", "enum",
        "const", "$ref",
    }
)  # fmt: skip
_MAX_DEPTH = 100
_MAX_SHOWN = 64
_SAID_ELSEWHERE = frozenset({"nullable", "propertyOrdering", "example", "type"})


def json_schema(where: str, schema: Any, depth: int = 1) -> dict[str, Any]:
    """The JSON schema that `schema` means. Raises: InvalidRequest.

    Google's types are upper case, counts may be texts, `nullable` is a member of its own, and
    members may be in snake case.
    """
    if not isinstance(schema, Mapping):
        raise InvalidRequest(f"`{where}` must be a schema; {shown(schema)} was given.", param=where)
    if depth == 1:
        check_size(schema, where)
    if depth > _MAX_DEPTH:
        raise InvalidRequest(
            f"`{where}` is too much: a schema may be nested {_MAX_DEPTH} deep.", param=where
        )
    members = {camel(str(name)): value for name, value in schema.items() if value is not None}
    written: dict[str, Any] = {}
    if (kind := _type(where, members)) is not None:
        written["type"] = kind
    for name, value in members.items():
        if name not in _SAID_ELSEWHERE:
            written |= _member(where, name, value, depth + 1)
    if members.get("nullable"):
        # What is no list is refused by whoever enforces the schema.
        enum, either = written.get("enum"), written.get("anyOf")
        if isinstance(enum, list) and None not in enum:
            written["enum"] = [*enum, None]
        if kind is None and isinstance(either, list):
            written["anyOf"] = [*either, {"type": "null"}]
    return _ordered(written, members.get("propertyOrdering"))


def closed(schema: Any) -> Any:
    """`schema` whose objects hold nothing but what it names, as Gemini answers one of its own."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    written = {name: _closed_member(name, value) for name, value in schema.items()}
    if "properties" in written:
        written.setdefault("additionalProperties", False)
    return written


def _closed_member(name: str, value: Any) -> Any:
    match name:
        case "properties" | "$defs" if isinstance(value, dict):
            return {key: closed(one) for key, one in value.items()}
        case "items" | "additionalProperties" | "anyOf" | "prefixItems":
            return closed(value)
        case _:
            return value


def _type(where: str, members: Mapping[str, Any]) -> str | list[str] | None:
    given = members.get("type")
    if given is None or str(given).upper() == "TYPE_UNSPECIFIED":
        return None
    names = given if isinstance(given, list) else [given]
    kinds = [str(name).lower() for name in names]
    if not kinds or any(kind not in _TYPES for kind in kinds):
        raise InvalidRequest(
            f"`{where}.type` must be one of {', '.join(_TYPES)}; {shown(given)} was given.",
            param=f"{where}.type",
        )
    if members.get("nullable") and "null" not in kinds:
        kinds.append("null")
    return kinds[0] if len(kinds) == 1 else kinds


def _member(where: str, name: str, value: Any, depth: int) -> dict[str, Any]:
    """The members of a JSON schema that one of Google's means; schemas in it are `depth` deep."""
    if name in _COUNTS:
        return {name: _count(f"{where}.{name}", value)}
    if name in _PLAIN:
        return {name: value}
    match name:
        case "ref":
            return {"$ref": value}
        case "format":
            # `int32`, `float` and `enum` say no more than the type does.
            return {name: value} if isinstance(value, str) and value in FORMATS else {}
        case "properties" | "defs" | "$defs":
            if not isinstance(value, Mapping):
                raise InvalidRequest(f"`{where}.{name}` must be an object.", param=where)
            inner = {
                # Long names would add up: the place of every schema below has them.
                key: json_schema(f"{where}.{name}.{key[:_MAX_SHOWN]}", one, depth)
                for key, one in value.items()
            }
            return {"properties" if name == "properties" else "$defs": inner}
        case "items" | "additionalProperties" if not isinstance(value, bool):
            return {name: json_schema(f"{where}.{name}", value, depth)}
        case "anyOf" | "prefixItems" if isinstance(value, list):
            places = [f"{where}.{name}[{index}]" for index in range(len(value))]
            return {name: [json_schema(*one, depth) for one in zip(places, value, strict=True)]}
        case _:
            # An unknown member is left to whoever enforces the schema, and named there.
            return {name: value}


def _count(where: str, value: Any) -> int:
    """Google writes 64 bit numbers as texts."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(
            f"`{where}` must be a number; {shown(value)} was given.", param=where
        ) from None


def _ordered(written: dict[str, Any], ordering: Any) -> dict[str, Any]:
    """The properties in the order that is asked for, as far as it goes."""
    properties = written.get("properties")
    if isinstance(ordering, list) and isinstance(properties, dict):
        known = [name for name in ordering if isinstance(name, str) and name in properties]
        first = {name: properties[name] for name in known}
        written["properties"] = {**first, **properties}
    return written
