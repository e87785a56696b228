from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from build_engines.cpu.sampler import Chooser, draw, log_total, top_log_probs
from build_engines.serving.request import Request, Sampling

VOCAB = 5000


def flat_logits(seed: int = 0, spread: float = 1.0) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return (random.standard_normal(VOCAB) * spread).astype(np.float32)


def kept_by_definition(logits: npt.NDArray[np.float32], sampling: Sampling) -> set[int]:
    """Temperature, top-k, top-p, min-p, written as plainly as they are defined."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / sampling.temperature)
    order = np.argsort(-weights, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    if sampling.top_p < 1.0:
        sums = np.cumsum(weights[order])
        order = order[: int(np.searchsorted(sums, sampling.top_p * sums[-1])) + 1]
    return {int(i) for i in order if weights[i] >= sampling.min_p}


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0, 40.0])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_p=0.9),
        Sampling(top_p=0.9999, temperature=3.0),
        Sampling(top_p=0.01),
        Sampling(top_k=3),
        Sampling(top_k=1500, temperature=0.7),
        Sampling(top_k=40, top_p=0.5, temperature=1.5),
        Sampling(min_p=0.2),
        Sampling(top_p=0.95, min_p=0.05),
        Sampling(),
    ],
)
def test_only_tokens_of_the_defined_set_are_drawn(sampling: Sampling, spread: float) -> None:
    logits = flat_logits(spread=spread)
    allowed = kept_by_definition(logits, sampling)
    uniforms = np.linspace(0, 1, 400, endpoint=False)
    drawn = {draw(logits, sampling, float(uniform)) for uniform in uniforms}
    assert drawn <= allowed
    if len(allowed) < 10:
        probable = {i for i in allowed if np.exp(logits[i] - logits.max()) > 0.05}
        assert probable <= drawn


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.8), Sampling(top_k=4)])
def test_draws_follow_the_probabilities(sampling: Sampling) -> None:
    logits = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32))
    allowed = sorted(kept_by_definition(logits, sampling))
    share = np.exp(logits[allowed]) / np.exp(logits[allowed]).sum()
    uniforms = (np.arange(2000) + 0.5) / 2000
    drawn = np.array([draw(logits, sampling, float(uniform)) for uniform in uniforms])
    for token, wanted in zip(allowed, share, strict=True):
        assert (drawn == token).mean() == pytest.approx(wanted, abs=0.002)


def test_a_uniform_at_the_very_end_draws_a_token_with_weight() -> None:
    logits = np.array([0.0, 1.0, -np.inf], np.float32)
    assert draw(logits, Sampling(), 1.0 - 2**-53) == 1


def test_a_temperature_near_zero_takes_the_best() -> None:
    logits = flat_logits(spread=40.0)
    for temperature in (1e-4, 1e-30):
        assert draw(logits, Sampling(temperature=temperature), 0.99) == logits.argmax()


def test_logits_without_any_allowed_token_do_not_raise() -> None:
    assert draw(np.full(4, -np.inf, np.float32), Sampling(top_p=0.5), 0.3) == 0


def test_top_log_probs_are_sorted_and_add_up_to_one() -> None:
    logits = flat_logits(spread=3.0)
    ids, values = top_log_probs(logits, 20)
    assert ids.tolist() == np.argsort(-logits, kind="stable")[:20].tolist()
    assert values == pytest.approx(logits[ids] - log_total(logits), abs=1e-5)
    every, all_values = top_log_probs(logits[:6], 20)
    assert len(every) == 6
    assert np.exp(all_values).sum() == pytest.approx(1.0, abs=1e-5)


def chosen(
    logits: npt.NDArray[np.float32],
    sampling: Sampling,
    output: list[int] | None = None,
    prompt: list[int] | None = None,
    **fields: Any,
) -> int:
    ids = np.array(prompt or [0], np.int32)
    request = Request(ids, 10, sampling, **fields)
    chooser = Chooser(request, len(logits), None)
    for token in output or []:
        chooser.accept(token)
    before = logits.copy()
    token = chooser.choose(logits, output or [])
    assert (logits == before).all()
    return token


LOGITS = np.array([1.0, 2.0, 3.0, 2.9], np.float32)
GREEDY = 1


def test_repetition_penalty_counts_prompt_and_output() -> None:
    penalised = Sampling(top_k=GREEDY, repetition_penalty=1.5)
    assert chosen(LOGITS, penalised, prompt=[2]) == 3
    assert chosen(LOGITS, penalised, output=[2]) == 3
    assert chosen(-LOGITS, penalised, prompt=[0]) == 0  # -1.5 is still the largest
    assert chosen(-LOGITS, Sampling(top_k=GREEDY, repetition_penalty=2.5), prompt=[0]) == 1


def test_presence_and_frequency_count_the_output_only() -> None:
    presence = Sampling(top_k=GREEDY, presence_penalty=0.2)
    assert chosen(LOGITS, presence, prompt=[2]) == 2
    assert chosen(LOGITS, presence, output=[2]) == 3
    frequency = Sampling(top_k=GREEDY, frequency_penalty=0.06)
    assert chosen(LOGITS, frequency, output=[2]) == 2
    assert chosen(LOGITS, frequency, output=[2, 2]) == 3


def test_bias_moves_the_choice() -> None:
    bias = np.array([5.0, 0.0, 0.0, -np.inf], np.float32)
    assert chosen(LOGITS, Sampling(top_k=GREEDY, bias=bias)) == 0


def test_a_bad_word_is_forbidden_only_where_it_would_be_completed() -> None:
    words = Sampling(top_k=GREEDY, bad_words=((0, 1, 2),))
    assert chosen(LOGITS, words) == 2
    assert chosen(LOGITS, words, output=[1]) == 3  # the prompt's 0 completes the start
    assert chosen(LOGITS, words, output=[0, 1]) == 3
    assert chosen(LOGITS, words, output=[1, 1]) == 2
    assert chosen(LOGITS, Sampling(top_k=GREEDY, bad_words=((2,), (3,)))) == 1


def test_end_tokens_wait_for_min_tokens() -> None:
    greedy = Sampling(top_k=GREEDY)
    fields: dict[str, Any] = {"end_id": 2, "stop_words": ((3,), (1, 0)), "min_tokens": 2}
    assert chosen(LOGITS, greedy, **fields) == 1
    assert chosen(LOGITS, greedy, output=[1, 1], **fields) == 2
    assert chosen(LOGITS, greedy, stop_words=((2,),), min_tokens=1) == 3


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    logits = flat_logits()

    def tokens(seed: int) -> list[int]:
        request = Request(np.zeros(1, np.int32), 10, Sampling(seed=seed))
        chooser = Chooser(request, VOCAB, None)
        return [chooser.choose(logits, []) for _ in range(100)]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)
    assert tokens(2**64 - 1) == tokens(2**64 - 1)
