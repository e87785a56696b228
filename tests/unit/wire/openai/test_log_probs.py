"""Log-probabilities in the two shapes of OpenAI."""

from __future__ import annotations

import math

from orchestrator.core.events import LikelyToken, TokenLogprob
from orchestrator.wire.openai.log_probs import chat_log_probs, legacy_log_probs

HI = TokenLogprob(7, b" Hi", -0.5, (LikelyToken(7, b" Hi", -0.5), LikelyToken(8, b"\xf0", -3.0)))
SNOW = [TokenLogprob(at, raw, -1.0) for at, raw in enumerate((b"\xe2\x98", b"\x83!", b"z"))]


def test_chat_tells_text_bytes_and_alternatives_of_each_token() -> None:
    assert chat_log_probs([HI]) == {
        "content": [
            {
                "token": " Hi",
                "logprob": -0.5,
                "bytes": [32, 72, 105],
                "top_logprobs": [
                    {"token": " Hi", "logprob": -0.5, "bytes": [32, 72, 105]},
                    {"token": "\\xf0", "logprob": -3.0, "bytes": [240]},
                ],
            }
        ],
        "refusal": None,
    }


def test_what_cannot_come_has_a_number_that_json_can_hold() -> None:
    never = TokenLogprob(1, b"x", -math.inf)
    assert chat_log_probs([never])["content"][0]["logprob"] == -9999.0
    assert legacy_log_probs([never], 0)["token_logprobs"] == [-9999.0]


def test_the_legacy_shape_is_parallel_lists() -> None:
    assert legacy_log_probs([HI], 10) == {
        "tokens": [" Hi"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{" Hi": -0.5, "\\xf0": -3.0}],
        "text_offset": [10],
    }


def test_offsets_count_characters_also_where_tokens_cut_them() -> None:
    told = legacy_log_probs([*SNOW, HI], 2)
    assert told["text_offset"] == [2, 2, 4, 5]
    assert told["top_logprobs"][0] is None
    broken = [TokenLogprob(0, b"\xff", -1.0), TokenLogprob(1, b"a", -1.0)]
    assert legacy_log_probs(broken, 0)["text_offset"] == [0, 1]
