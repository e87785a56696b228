"""Schemas that are too large are refused by size, before anything else looks at them."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.json_schema import check_schema, loosened
from orchestrator.core.schema_size import MAX_CHARACTERS, MAX_LEVELS, check_size, size
from orchestrator.wire.gemini.json_schema import json_schema


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"const": value}
    return value


LARGE: dict[str, dict[str, Any]] = {
    "a value": {"const": "x" * MAX_CHARACTERS},
    "a pattern": {"type": "string", "pattern": "x" * MAX_CHARACTERS},
    "an annotation": {"description": "x" * MAX_CHARACTERS},
    "a name": {"properties": {"x" * MAX_CHARACTERS: {}}},
    "many names": {"properties": {f"p{index}": {} for index in range(60_000)}},
    "many small values": {"enum": [[0] * (MAX_CHARACTERS // 4)]},
    "required names": {"type": "object", "required": [""] * (MAX_CHARACTERS // 4)},
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_schema_is_refused_with_limit_and_size(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_schema(LARGE[name], "response_format.schema")
    assert caught.value.param == "response_format.schema"
    said = re.fullmatch(
        rf"`response_format.schema` is too large: a schema may have {MAX_CHARACTERS} characters;"
        r" it has (\d+) at least.",
        caught.value.message,
    )
    assert said is not None, caught.value.message
    assert MAX_CHARACTERS < int(said[1]) <= sum(size(LARGE[name])) + 64


def test_up_to_the_limits_a_schema_passes() -> None:
    check_schema({"const": "x" * (MAX_CHARACTERS - 4 - len("const"))}, "s")
    check_schema({"const": nested(MAX_LEVELS - 2)}, "s")


@pytest.mark.parametrize("levels", [MAX_LEVELS + 1, 50_000])
def test_levels_are_counted_without_recursion(levels: int) -> None:
    with pytest.raises(InvalidRequest, match=f"may have {MAX_LEVELS} levels") as caught:
        check_size({"const": nested(levels)}, "s")
    assert f"it has {MAX_LEVELS + 1} at least" in caught.value.message


class Counted(dict[str, Any]):
    """Counts how many of its values were looked at."""

    looked_at = 0

    def items(self) -> Any:
        for pair in super().items():
            Counted.looked_at += 1
            yield pair


@pytest.mark.parametrize("look", [loosened, lambda schema: check_schema(schema, "s")])
def test_nothing_of_a_large_schema_is_looked_at(look: Any) -> None:
    Counted.looked_at = 0
    properties = Counted({f"p{index}": {} for index in range(60_000)})
    with contextlib.suppress(InvalidRequest):
        assert look({"type": "object", "properties": properties}) == {"type": "object"}
    assert Counted.looked_at == 0


def test_googles_schemas_are_measured_before_they_are_translated() -> None:
    properties = {f"p{index}": {"type": "STRING"} for index in range(60_000)}
    with pytest.raises(InvalidRequest, match="`s` is too large"):
        json_schema("s", {"type": "OBJECT", "properties": properties})
