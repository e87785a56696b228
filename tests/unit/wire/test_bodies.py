"""What bodies are refused with: the field, its limit and what was given."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.wire.bodies import BodyReader, check_at_least, check_range


class _Body(msgspec.Struct):
    seed: int | None = None
    text: str | None = None


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" + b"0" * 5000])
@pytest.mark.parametrize("field", ["seed", "text"])
def test_a_number_that_no_type_can_hold_is_a_bad_request(field: str, number: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"`{field}` is wrong") as caught:
        BodyReader(_Body).read(b'{"%s": %s}' % (field.encode(), number))
    assert caught.value.param == field


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
