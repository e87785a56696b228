from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from build_engines.llmapi.sampling import cache_salt, finish_reason, sampling_arguments, take
from build_engines.serving.request import Generation, Guide, Request, RequestError, Sampling


def request(**changes: Any) -> Request:
    return replace(Request(np.array([1, 2], np.int32), max_new_tokens=5, end_id=7), **changes)


def test_a_plain_request_leaves_text_to_the_orchestrator() -> None:
    arguments = sampling_arguments(request(sampling=Sampling(temperature=0.5, min_p=0.1, seed=3)))
    assert arguments == {
        "max_tokens": 5,
        "end_id": 7,
        "seed": 3,
        "temperature": 0.5,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.1,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "detokenize": False,
        "include_stop_str_in_output": True,
        "ignore_eos": False,
    }


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"end_id": -1}, "ignore_eos", True),
        ({"min_tokens": 2}, "min_tokens", 2),
        ({"stop_words": ((4,), (5,))}, "stop_token_ids", [4, 5]),
        ({"sampling": Sampling(bad_words=((9,),))}, "bad_token_ids", [9]),
        ({"log_probs": True}, "logprobs", 1),
        ({"top_log_probs": 4}, "logprobs", 4),
        ({"guide": Guide("json")}, "guided_decoding", {"json_object": True}),
        ({"guide": Guide("json_schema", "{}")}, "guided_decoding", {"json": "{}"}),
        ({"guide": Guide("regex", "a+")}, "guided_decoding", {"regex": "a+"}),
        ({"guide": Guide("ebnf_grammar", "r")}, "guided_decoding", {"grammar": "r"}),
    ],
)
def test_what_is_asked_is_said_in_the_words_of_the_llm_api(
    changes: dict[str, Any], name: str, value: Any
) -> None:
    assert sampling_arguments(request(**changes))[name] == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_words": ((4, 5),)}, "`stop_words_list` holds a word of 2 tokens, must be of 1"),
        ({"sampling": Sampling(bad_words=((1, 2, 3),))}, "`bad_words_list` holds a word of 3"),
    ],
)
def test_words_of_several_tokens_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        sampling_arguments(request(**changes))


def test_tokens_come_with_their_own_log_probability_and_the_best_alternatives() -> None:
    generation = Generation(request(log_probs=True, top_log_probs=2))
    # The second token was drawn beyond the two best.
    known = [{3: -0.1, 8: -2.5}, {3: -0.2, 8: -1.8, 5: -9.0}]
    assert take(generation, [3], known[:1], now_ns=10)
    assert not take(generation, [5], known[1:], now_ns=20)
    assert generation.token_ids == [3, 5]
    assert generation.log_probs == [-0.1, -9.0]
    assert [ids.tolist() for ids, _ in generation.top_log_probs] == [[3, 8], [3, 8]]
    assert (generation.timing.first_token, generation.timing.last_token) == (10, 20)


def test_without_log_probabilities_only_tokens_are_taken() -> None:
    generation = Generation(request())
    assert not take(generation, [], [], now_ns=1)
    assert take(generation, [1, 2], [], now_ns=2)
    assert (generation.token_ids, generation.log_probs) == ([1, 2], [])
    assert generation.timing.first_token == 2


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("stop", "stop"), ("length", "length"), ("timeout", "length"), ("cancelled", "cancelled")],
)
def test_every_finish_reason_has_a_word(theirs: str, ours: str) -> None:
    assert finish_reason(theirs) == ours


def test_a_salt_is_a_text_of_its_own() -> None:
    assert cache_salt(request()) is None
    assert cache_salt(request(cache_salt=5)) == "0000000000000005"
    assert cache_salt(request(cache_salt=2**64 - 1)) == "f" * 16
