"""Arguments as a model has written them, and the JSON that clients get."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import InvalidRequest
from orchestrator.http.bodies import json_text
from orchestrator.wire.call_arguments import in_ascii, readable_arguments, whole_arguments

LARGE = 10**30
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)  # fmt: skip


@given(st.dictionaries(st.text(), VALUES), st.booleans(), st.sampled_from([None, 1]))
def test_any_object_comes_out_on_one_line_and_means_the_same(
    value: dict[str, object], ascii_only: bool, indent: int | None
) -> None:
    written = whole_arguments(json.dumps(value, ensure_ascii=ascii_only, indent=indent))
    assert written is not None
    assert in_ascii(written).isascii()
    assert json.loads(in_ascii(written)) == value
    assert "\n" not in written
    assert json.loads(written) == value
    assert readable_arguments(json.dumps(value)) == whole_arguments(json.dumps(value))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("", "{}"),
        (" \n", "{}"),
        (f'{{"n": {LARGE}}}', f'{{"n":{LARGE}}}'),
        ('{"n": -' + "9" * 5000 + "}", '{"n":-' + "9" * 5000 + "}"),
        ('{"a": 1.10, "b": 1e400, "c": -0}', '{"a":1.10,"b":1e400,"c":-0}'),
        ('{"a b": "\u00e9 \\" : "}', '{"a b":"\u00e9 \\" : "}'),
    ],
)
def test_numbers_and_texts_stay_as_they_were_written(text: str, written: str) -> None:
    assert whole_arguments(text) == readable_arguments(text) == written


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ('{"a": NaN}', '{"a":null}'),
        (f'{{"n": {LARGE}, "b": "cut of', f'{{"n":{LARGE}}}'),
        ("[1]", "{}"),
        ("no JSON", "{}"),
        ('{"a": ' * 3000, "{}"),
    ],
)
def test_what_is_no_object_is_read_as_far_as_it_goes(text: str, readable: str) -> None:
    assert whole_arguments(text) is None
    assert readable_arguments(text) == readable


def test_a_former_call_may_have_any_integer_and_no_endless_depth() -> None:
    assert json_text({"n": LARGE}, "input") == f'{{"n":{LARGE}}}'
    deep: dict[str, object] = {"n": LARGE}
    for _ in range(300):
        deep = {"a": deep}
    with pytest.raises(InvalidRequest, match="`input` is nested more than 254 deep"):
        json_text(deep, "input")
