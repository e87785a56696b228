from __future__ import annotations

import contextlib
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from build_engines.cpu.engine import Engine
from build_engines.cpu.guided import GuideCompiler
from build_engines.serving.artefacts import Artefacts
from build_engines.serving.faults import described
from build_engines.serving.request import Generation, Guide, Request, RequestError, Sampling
from tests.reference.checkpoints import END_ID, byte_tokenizer

PROMPT = np.arange(40, 50, dtype=np.int32)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bo"]}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}


def guided(engine: Engine, guide: Guide, seed: int = 0, tokens: int = 120) -> Generation:
    # A small temperature keeps a random model from stretching strings to the limit.
    request = Request(PROMPT, tokens, Sampling(seed=seed), END_ID, guide=guide)
    generation = engine.submit(request)
    assert generation.wait(60)
    return generation


def text(generation: Generation) -> str:
    return str(byte_tokenizer().decode(generation.token_ids))


@pytest.mark.parametrize("seed", range(5))
def test_output_follows_a_json_schema(engine: Engine, seed: int) -> None:
    generation = guided(engine, Guide("json_schema", json.dumps(SCHEMA)), seed)
    assert generation.finish == "stop", generation.error
    value = json.loads(text(generation))
    assert value["name"] in ("Ada", "Bo")
    assert isinstance(value["old"], bool)


@pytest.mark.parametrize("seed", range(5))
def test_output_follows_a_regular_expression(engine: Engine, seed: int) -> None:
    generation = guided(engine, Guide("regex", r"(yes|no), [0-9]{2,4}"), seed)
    assert generation.finish == "stop", generation.error
    assert re.fullmatch(r"(yes|no), [0-9]{2,4}", text(generation))


def test_output_follows_an_ebnf_grammar(engine: Engine) -> None:
    generation = guided(engine, Guide("ebnf_grammar", 'root ::= "left" | "right"'))
    assert text(generation) in ("left", "right")


def test_plain_json_is_the_beginning_of_an_object(engine: Engine) -> None:
    generation = guided(engine, Guide("json"), tokens=30)
    assert text(generation).startswith("{")
    if generation.finish == "stop":
        json.loads(text(generation))


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (Guide("json_schema", '{"type": "nope"}'), "an unknown `type`"),
        (Guide("json_schema", "{broken"), "json_schema"),
        (Guide("json_schema", '{"type": "object", "unevaluatedProperties": false}'), "uneval"),
        (Guide("json_schema", '{"type": "string", "minLength": 5, "maxLength": 3}'), "minLength"),
        (Guide("regex", "[a-z"), "unclosed character class"),
        (Guide("ebnf_grammar", "root ::= missing"), "ebnf_grammar"),
    ],
)
def test_an_unusable_guide_fails_its_request_alone(
    engine: Engine, guide: Guide, reason: str
) -> None:
    neighbour = engine.submit(Request(PROMPT, 60, Sampling(top_k=1)))
    refused = guided(engine, guide)
    assert refused.finish == "error"
    assert refused.error is not None
    assert "`guided_decoding_guide` is no usable" in refused.error
    assert reason in refused.error
    assert neighbour.wait(60)
    assert neighbour.finish == "length"
    assert guided(engine, Guide("regex", "ok")).finish == "stop"


SECRETS = [
    Guide("json_schema", '{"type": "Kaufvertrag"}'),
    Guide("json_schema", '{"type": "object", "Kaufvertrag": 1, "unevaluatedItems": false}'),
    Guide("json_schema", '{"$ref": "#/$defs/Kaufvertrag"}'),
    Guide("json_schema", '{"$ref": "http://Kaufvertrag/1"}'),
    Guide("json_schema", '{"type": "string", "pattern": "(?=Kaufvertrag)"}'),
    Guide("json_schema", '{"type": "string", "pattern": "Kaufvertrag["}'),
    Guide("json_schema", "{Kaufvertrag"),
    Guide("regex", "Kaufvertrag["),
    Guide("regex", "(Kaufvertrag"),
    Guide("ebnf_grammar", "root ::= Kaufvertrag"),
    Guide("ebnf_grammar", "Kaufvertrag"),
]


@pytest.mark.parametrize("guide", SECRETS, ids=lambda guide: guide.text)
def test_a_refusal_holds_nothing_of_the_guide(
    engine: Engine, guide: Guide, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    refused = guided(engine, guide)
    assert refused.finish == "error"
    assert "kaufvertrag" not in f"{refused.error} {caplog.text}".lower()


def test_a_failure_on_the_way_holds_neither_the_guide_nor_the_answer(
    engine: Engine, llama: Artefacts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    guides = GuideCompiler(llama.folder / "tokenizer.json", engine.limits.vocab_size, [END_ID])
    schema = {"type": "object", "properties": {"Kaufvertrag": {"type": "null"}}}
    with contextlib.closing(guides):
        matcher = guides.compile(Guide("json_schema", json.dumps(schema)))
    answer = byte_tokenizer().encode("{Mueller").ids
    with pytest.raises(RequestError) as caught:
        _ = [matcher.advance(token) for token in answer]
    assert str(caught.value) == "guided decoding failed: what was chosen does not follow it"
    # And the scheduler's line says where it happened only.
    assert "Kaufvertrag" not in described(caught.value)
    assert "guided.py" in described(caught.value)


def test_an_unreadable_tokenizer_makes_guides_unavailable_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(file))
    guides = GuideCompiler(file, 2, [1])
    assert guides.unavailable
    with pytest.raises(RequestError, match="no guides with this tokenizer"):
        guides.compile(Guide("json"))


def test_a_complete_guide_ends_before_min_tokens(engine: Engine) -> None:
    request = Request(PROMPT, 50, end_id=END_ID, min_tokens=9, guide=Guide("regex", "ok"))
    generation = engine.submit(request)
    assert generation.wait(60)
    assert (generation.finish, text(generation)) == ("stop", "ok")


def test_the_end_token_ends_a_guide_that_could_go_on(llama: Artefacts, engine: Engine) -> None:
    bias = np.zeros(engine.limits.vocab_size, np.float32)
    bias[END_ID] = 100.0
    request = Request(
        PROMPT, 50, Sampling(top_k=1, bias=bias), END_ID, guide=Guide("regex", "[a-z]+")
    )
    generation = engine.submit(request)
    assert generation.wait(60)
    assert generation.finish == "stop"
    assert len(generation.token_ids) == 1
    assert END_ID not in generation.token_ids
