"""What the demonstration models are taught: the same every time, and never what judges them."""

from __future__ import annotations

import itertools
import random

import pytest

from build_engines.demo import corpus, paraphrases
from build_engines.demo.calling import called
from build_engines.demo.draw import Draw, is_held_out
from build_engines.demo.numbers import addition
from build_engines.demo.unknown import REFUSAL


def test_the_same_seed_makes_the_same_corpus() -> None:
    first, second = (
        list(itertools.islice(corpus.training_dialogues(7, "main"), 400)) for _ in range(2)
    )
    assert first == second
    assert first != list(itertools.islice(corpus.training_dialogues(8, "main"), 400))


@pytest.mark.parametrize("skill", corpus.generators())
def test_every_skill_ends_with_an_answer(skill: str) -> None:
    for unseen_phrases in (False, True):
        for made in corpus.held_out(skill, 40, seed=3, unseen_phrases=unseen_phrases):
            assert made.turns[-2].role in ("user", "tool")
            assert made.turns[-1].role == "assistant"
            assert made.turns[-1].content or made.turns[-1].calls
            assert "{" not in made.turns[-1].content or made.turns[-1].content.startswith("{")


def test_names_and_wordings_of_the_evaluation_are_never_drawn_for_training() -> None:
    training, evaluation = Draw(random.Random(1)), Draw(random.Random(1), True, True)
    options = [f"wording {i}" for i in range(10)]
    assert not any(is_held_out(training.name()) for _ in range(300))
    assert all(is_held_out(evaluation.name()) for _ in range(300))
    assert {training.phrase(options) for _ in range(300)} == set(options) - {options[4], options[9]}
    assert {evaluation.phrase(options) for _ in range(300)} == {options[4], options[9]}


def test_two_digit_sums_of_the_evaluation_are_never_drawn_for_training() -> None:
    training, evaluation = Draw(random.Random(1)), Draw(random.Random(2), True, True)
    taught = {addition(training).turns[-1].content for _ in range(3000)}
    asked = {addition(evaluation).turns[-1].content for _ in range(300)}
    assert not taught & asked


def test_a_call_is_written_as_the_chat_template_writes_it() -> None:
    text = called({"town": "Zürich", "days": 3}, "forecast")
    spoken = '{"name": "forecast", "arguments": {"town": "Zürich", "days": 3}}'
    assert text == f"<tool_call>\n{spoken}\n</tool_call>"


def test_whatever_was_not_taught_has_one_answer() -> None:
    made = corpus.held_out("unknown", 50, seed=3, unseen_phrases=True)
    assert {one.turns[-1].content for one in made} == {REFUSAL}


def test_pairs_of_the_encoder_differ_and_are_the_same_every_time() -> None:
    first, second = (list(itertools.islice(paraphrases.pairs(5, False), 300)) for _ in range(2))
    assert first == second
    assert all(one.first != one.second for one in first)
