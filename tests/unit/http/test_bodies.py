"""What bodies are refused with: the field, its limit and what was given."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.http.bodies import (
    BodyReader,
    StrictBodyReader,
    check_at_least,
    check_range,
    shown,
)


class _Body(msgspec.Struct):
    seed: int | None = None
    text: str | None = None


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" + b"0" * 5000])
@pytest.mark.parametrize("field", ["seed", "text"])
def test_a_number_that_no_type_can_hold_is_a_bad_request(field: str, number: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"`{field}` is wrong") as caught:
        BodyReader(_Body).read(b'{"%s": %s}' % (field.encode(), number))
    assert caught.value.param == field


@pytest.mark.parametrize("depth", [200, 900, 1_100, 5_000])
@pytest.mark.parametrize("pair", [b"[]", b"{}"])
def test_a_value_nested_without_end_is_a_bad_request(depth: int, pair: bytes) -> None:
    opening = pair[:1] + (b'"a":' if pair == b"{}" else b"")
    value = opening * depth + b"1" + pair[1:] * depth
    with pytest.raises(InvalidRequest, match=r"`seed` is wrong|nested too deeply"):
        BodyReader(_Body).read(b'{"seed": ' + value + b"}")


def test_bytes_that_are_no_text_are_told_after_what_is_wrong_before_them() -> None:
    with pytest.raises(InvalidRequest, match="`seed` is wrong"):
        BodyReader(_Body).read(b'{"seed": "x", "other": "\xff"}')
    with pytest.raises(InvalidRequest):
        BodyReader(_Body).read(b'{"text": "\xff"}')


def test_what_cannot_be_written_again_is_shown_by_its_kind() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    assert shown(value) == "a value of type array"
    assert shown("x" * 10**6) == '"' + "x" * 59 + "…"
    # Taken apart from outside: a list that deep may not be left to Python.
    while value:
        (inner,) = value
        assert isinstance(inner, list)
        value = inner


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-1, "-1"), (3.0, "3"), (2.0000001, "2.0000001"), (10**30, "1" + "0" * 30), (1e30, "1e30")],
)
def test_a_number_out_of_range_is_told_to_its_last_digit(value: float, shown: str) -> None:
    with pytest.raises(InvalidRequest, match=f"between 0 and 2; {shown} was given"):
        check_range("n", value, 0, 2)


def test_so_is_the_limit() -> None:
    with pytest.raises(InvalidRequest, match="between 0 and 2147483647; -1 was given"):
        check_range("top_k", -1, 0, 2**31 - 1)
    with pytest.raises(InvalidRequest, match="at least 1; -5 was given"):
        check_at_least("n", -5, 1)


class _Nested(msgspec.Struct):
    count: int
    share: float
    free: dict[str, object]
    inner: list[_Body] = []


def test_whole_numbers_may_be_written_with_a_fraction_of_nothing() -> None:
    body = b'{"count": 8.0, "share": 2.0, "free": {"a": 1.5}, "inner": [{"seed": -3e2}]}'
    read = BodyReader(_Nested).read(body)
    assert read == _Nested(8, 2.0, {"a": 1.5}, [_Body(-300)])
    with pytest.raises(InvalidRequest, match=r"`inner\[0\].seed` is wrong.*8.5 was given"):
        BodyReader(_Nested).read(
            b'{"count": 8.0, "share": 1, "free": {}, "inner": [{"seed": 8.5}]}'
        )
    with pytest.raises(InvalidRequest, match="`count` is wrong"):
        BodyReader(_Nested).read(b'{"count": 1e300, "share": 1, "free": {}}')
    with pytest.raises(InvalidRequest, match="`free` is required"):
        BodyReader(_Nested).read(b'{"count": 8.0, "share": 1}')


@pytest.mark.parametrize("kind", [BodyReader, StrictBodyReader])
def test_a_byte_order_mark_means_nothing(kind: type[BodyReader[_Body]]) -> None:
    assert kind(_Body).read(b'\xef\xbb\xbf{"seed": 1}') == _Body(1)
    with pytest.raises(InvalidRequest, match="is empty"):
        kind(_Body).read(b"\xef\xbb\xbf")
    with pytest.raises(InvalidRequest, match="`seed` is wrong"):
        kind(_Body).read(b'\xef\xbb\xbf{"seed": "x"}')
