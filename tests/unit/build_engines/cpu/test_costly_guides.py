"""Guides that cost more than one request may: they end alone, and all else goes on."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest

from build_engines.cpu import guided
from build_engines.cpu.engine import Engine
from build_engines.cpu.trial import TOO_COMPLEX, TOO_LONG, Trial
from build_engines.serving.request import Generation, Guide, Request, Sampling
from tests.reference.checkpoints import END_ID, byte_tokenizer
from tests.unit.build_engines.conftest import EngineFactory

PROMPT = np.arange(40, 50, dtype=np.int32)
#: Longer than any processor that is shared should need.
PATIENCE_S = 120


def text_of(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


def chain(length: int) -> dict[str, Any]:
    """Each definition refers to the next."""
    links = {
        f"d{index}": {"type": "object", "properties": {"next": {"$ref": f"#/$defs/d{index + 1}"}}}
        for index in range(length)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {"type": "null"}}}


def endless(first: int = 1) -> dict[str, Any]:
    """Each pattern multiplies the time and the memory that the compiler takes."""
    return {"allOf": [text_of(f".*[a-z]{{{index}}}x.*") for index in range(first, 25)]}


def guide(schema: dict[str, Any]) -> Guide:
    return Guide("json_schema", json.dumps(schema))


#: Which bound comes first depends on the processor.
EITHER = (TOO_LONG, TOO_COMPLEX)
COSTLY: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "patterns of which all hold": (endless(), EITHER),
    "names by many patterns": (
        {
            "type": "object",
            "patternProperties": {f"^k{i}_[a-z]*$": {"type": "null"} for i in range(2_000)},
        },
        EITHER,
    ),
    "a chain of references": (chain(3_000), (TOO_COMPLEX,)),
    "much memory": ({"const": "x" * 1_000_000}, EITHER),
}


def submit(engine: Engine, schema: dict[str, Any], tokens: int = 100) -> Generation:
    request = Request(PROMPT, tokens, Sampling(seed=1), END_ID, guide=guide(schema))
    return engine.submit(request)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", COSTLY)
def test_a_guide_that_costs_too_much_is_refused_alone(engine: Engine, name: str) -> None:
    schema, reasons = COSTLY[name]
    neighbour = engine.submit(Request(PROMPT, 60, Sampling(top_k=1)))
    refused = submit(engine, schema)
    assert refused.wait(PATIENCE_S)
    assert refused.finish == "error"
    start, _, reason = str(refused.error).partition(": ")
    assert start == "`guided_decoding_guide` is no usable json_schema"
    assert reason in reasons
    assert neighbour.wait(PATIENCE_S)
    assert neighbour.finish == "length"
    usable = submit(engine, {"enum": ["Ada", "Bo"]})
    assert usable.wait(PATIENCE_S)
    assert usable.finish == "stop", usable.error
    assert json.loads(byte_tokenizer().decode(usable.token_ids)) in ("Ada", "Bo")


@pytest.mark.timeout(300)
def test_others_go_on_while_a_guide_is_compiled(engine: Engine) -> None:
    costly = submit(engine, endless(2))
    tokens = answers = 0
    while costly.finish is None:
        one = engine.submit(Request(PROMPT, 20, Sampling(top_k=1)))
        assert one.wait(PATIENCE_S)
        tokens += len(one.token_ids)
        # Guides of others, too, as long as not every compiler is taken.
        usable = submit(engine, {"enum": [answers]})
        assert usable.wait(PATIENCE_S)
        assert usable.finish == "stop", usable.error
        answers += 1
    assert str(costly.error).endswith(EITHER)
    assert tokens >= 40
    assert answers >= 2


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Guide]:
    """The guides that are tried while a test runs."""
    guides: list[Guide] = []
    problem = Trial.problem

    def noted(trial: Trial, one: Guide) -> str:
        guides.append(one)
        return problem(trial, one)

    monkeypatch.setattr(Trial, "problem", noted)
    return guides


@pytest.mark.timeout(300)
@pytest.mark.parametrize("schema", [endless(3), {"const": "once"}], ids=["refused", "usable"])
def test_a_guide_is_tried_once(engine: Engine, tried: list[Guide], schema: dict[str, Any]) -> None:
    first = submit(engine, schema)
    assert first.wait(PATIENCE_S)
    again = submit(engine, schema)
    assert again.wait(PATIENCE_S)
    assert (again.finish, again.error) == (first.finish, first.error)
    assert tried == [guide(schema)]


def test_following_a_guide_is_bounded_in_all(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No computer is so fast that it needs nothing for a token.
    monkeypatch.setattr(guided, "_FIRST_S", 0.0)
    monkeypatch.setattr(guided, "_EACH_TOKEN_S", 0.0)
    neighbour = engine.submit(Request(PROMPT, 60, Sampling(top_k=1)))
    slow = submit(engine, text_of("[a-z]*[b-z].{400}"))
    assert slow.wait(PATIENCE_S)
    assert slow.finish == "error"
    assert slow.error == "guided decoding failed: following the guide takes too long"
    assert neighbour.wait(PATIENCE_S)
    assert neighbour.finish == "length"


def test_a_trial_that_fails_itself_ends_at_once_and_the_next_works() -> None:
    with contextlib.closing(Trial()) as trial:
        # Not a text, which the compiler answers with an error that is no refusal.
        assert trial.problem(Guide("regex", None)) == TOO_COMPLEX  # type: ignore[arg-type]
        assert trial.problem(guide({"type": "integer"})) == ""


def test_a_trial_that_was_ended_from_outside_is_started_again() -> None:
    with contextlib.closing(Trial()) as trial:
        assert trial.problem(guide({"type": "integer"})) == ""
        process = trial._process
        assert process is not None
        process.kill()
        process.wait()
        assert trial.problem(guide({"type": "null"})) == ""


@pytest.mark.timeout(300)
def test_a_guide_that_is_cancelled_before_its_turn_is_not_compiled(
    engine_with: EngineFactory, tried: list[Guide]
) -> None:
    engine = engine_with()
    ahead = [submit(engine, endless(first)) for first in range(1, guided.COMPILERS + 1)]
    behind = submit(engine, {"type": "integer"})
    engine.cancel(behind)
    assert behind.wait(PATIENCE_S)
    assert behind.finish == "cancelled"
    assert all(one.wait(PATIENCE_S) for one in ahead)
    assert guide({"type": "integer"}) not in tried
