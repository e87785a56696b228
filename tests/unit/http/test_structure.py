"""How much a body holds beside text, counted without decoding it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import InvalidRequest
from orchestrator.http import structure
from orchestrator.http.structure import MAX_THINGS, MAX_VALUES, check_structure

MEGABYTES = 8 * 2**20


@pytest.mark.parametrize(
    "text",
    ["a", "{", ",", '\\"', "\\\\", '\\\\\\"', "[{,", "\\u0041", " "],
)
def test_a_text_may_hold_whatever_it_likes(text: str) -> None:
    count = MEGABYTES // len(text)
    check_structure(b'{"model":"m","messages":[{"content":"' + text.encode() * count + b'"}]}')


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (b'{"messages":[' + b'{"role":"user","content":"a"},' * 270_000 + b"{}]}", MAX_THINGS),
        (b'{"prompt":[' + b"1," * 4_000_000 + b"1]}", MAX_VALUES),
        (b"[" * MEGABYTES, MAX_THINGS),
        (b'{"x":{' + b",".join(b'"%06d":0' % at for at in range(700_000)) + b"}}", MAX_THINGS),
        (b'{"tools":[' + b"{}," * 2_000_000 + b"{}]}", MAX_THINGS),
        (b'["' + b'","' * 2_000_000 + b'"]', MAX_THINGS),
    ],
)
def test_a_body_of_too_many_things_is_refused(body: bytes, limit: int) -> None:
    with pytest.raises(InvalidRequest, match=f"may hold {limit} "):
        check_structure(body)


def test_as_many_as_may_be_are_taken() -> None:
    check_structure(b"[" + b"1," * MAX_VALUES + b"1]")
    with pytest.raises(InvalidRequest):
        check_structure(b"[" + b"1," * (MAX_VALUES + 1) + b"1]")
    check_structure(b"[" + b"[]," * (MAX_THINGS - 1) + b"0]")
    with pytest.raises(InvalidRequest):
        check_structure(b"[" + b"[]," * MAX_THINGS + b"0]")


@pytest.mark.parametrize("text", [b"a", b"{"], ids=["at a glance", "by what is outside texts"])
def test_the_loop_has_its_turn_all_along(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr("orchestrator.http.structure.time.sleep", rests.append)
    check_structure(b'["' + text * MEGABYTES + b'"]')
    assert len(rests) >= MEGABYTES // 2**18


JSON = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a"\\{[,]}:é')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('"\\,x')), inner),
    max_leaves=30,
)


@settings(deadline=None)
@given(JSON, st.booleans(), st.integers(1, 9))
def test_it_counts_what_is_there_wherever_it_looks_in_steps(
    value: Any, ascii_only: bool, window: int
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    things = _things(value)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(structure, "_WINDOW_BYTES", window)
        patched.setattr(structure, "_COUNTED_BYTES", window)
        patched.setattr(structure, "MAX_THINGS", things)
        check_structure(body)
        if things:
            patched.setattr(structure, "MAX_THINGS", things - 1)
            with pytest.raises(InvalidRequest):
                check_structure(body)


def _things(value: Any) -> int:
    if isinstance(value, str):
        return 1
    if isinstance(value, list):
        return 1 + sum(map(_things, value))
    if isinstance(value, dict):
        return 1 + sum(1 + _things(one) for one in value.values())
    return 0
