"""The description of the HTTP interface: valid, complete, and named as clients know it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from orchestrator.http.openapi import (
    INFERENCE,
    Described,
    Operation,
    document,
    path_parameter,
    query_parameter,
)


class Leaf(msgspec.Struct):
    """A leaf."""

    name: str


class Tree(msgspec.Struct):
    """A tree."""

    leaves: list[Leaf]
    parent: Tree | None = None


class Failure(msgspec.Struct):
    """What went wrong."""

    message: str


def described(operation: Operation, *, tag: str = "trees", path: str = "/trees/{id:path}") -> Any:
    return Described("POST", path, f"grow_{tag}", "Grow", "Grows a tree.", tag, operation)


def test_a_route_tells_what_it_takes_and_gives_and_how_it_fails() -> None:
    operation = Operation(
        body=Tree,
        reply=Leaf,
        example={"leaves": []},
        parameters=[path_parameter("id"), query_parameter("limit", "How many.")],
        errors=INFERENCE,
        error=Failure,
        streams=True,
        limited=True,
    )
    found = document("Trees", "1.0", [described(operation)])
    OpenAPIV31SpecValidator(found).validate()
    told = found["paths"]["/trees/{id}"]["post"]
    assert told["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Tree"
    }
    assert set(told["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "X-RateLimit-Remaining-Tokens" in told["responses"]["200"]["headers"]
    assert "Retry-After" in told["responses"]["429"]["headers"]
    assert set(told["responses"]) == {"200", *(str(status) for status in INFERENCE)}
    assert set(found["components"]["schemas"]) == {"Tree", "Leaf", "Failure"}


def test_a_name_that_two_dialects_give_is_told_apart() -> None:
    other = msgspec.defstruct("Leaf", [("colour", str)])
    same = msgspec.defstruct("Tree", [("leaves", list[other]), ("parent", str | None, None)])  # type: ignore[valid-type]  # made at run time
    found = document(
        "Trees",
        "1.0",
        [
            described(Operation(body=Tree)),
            described(Operation(body=same), tag="gemini", path="/other"),
        ],
    )
    OpenAPIV31SpecValidator(found).validate()
    schemas = found["components"]["schemas"]
    assert set(schemas) == {"Tree", "Leaf", "GeminiTree", "GeminiLeaf"}
    items = schemas["GeminiTree"]["properties"]["leaves"]["items"]
    assert items == {"$ref": "#/components/schemas/GeminiLeaf"}


def test_two_structs_of_one_dialect_cannot_share_a_name() -> None:
    other = msgspec.defstruct("Leaf", [("colour", str)], module="elsewhere")
    operations = [
        described(Operation(body=Tree)),
        described(Operation(body=msgspec.defstruct("Leaf", [("a", int)])), path="/a"),
        described(Operation(body=other), path="/b"),
    ]
    with pytest.raises(ValueError, match="Leaf"):
        document("Trees", "1.0", operations)


def test_a_public_route_needs_no_key() -> None:
    found = document("Trees", "1.0", [described(Operation(public=True), path="/health")])
    assert found["paths"]["/health"]["post"]["security"] == []
    assert found["security"] == [{"virtual_key": []}]
