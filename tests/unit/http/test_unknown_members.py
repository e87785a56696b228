"""Which members are taken for misspelt ones."""

from __future__ import annotations

import json

import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.http.unknown_members import check_spelling
from orchestrator.wire.openai.chat.request import GUARDED

KNOWN = frozenset({"model", "max_tokens", "top_k", "top_p"})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("max_token", "max_tokens"),
        ("max_tokenss", "max_tokens"),
        ("max_tokesn", "max_tokens"),
        ("max_tokans", "max_tokens"),
        ("mx_tokens", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("max-tokens", "max_tokens"),
        ("max_output_tokens", "max_tokens"),
        ("max_completion_token", "max_completion_tokens"),
        ("repetition_penality", "repetition_penalty"),
        ("top-k", "top_k"),
        ("topK", "top_k"),
        ("min-p", "min_p"),
        ("route-hint", "route_hint"),
        ("routeHint", "route_hint"),
        ("rout_hint", "route_hint"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(given: str, meant: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_spelling(json.dumps({"model": "m", given: 1}).encode(), KNOWN, GUARDED)
    assert caught.value.param == given
    assert caught.value.message == f"There is no parameter `{given}`; did you mean `{meant}`?"


@pytest.mark.parametrize(
    "given",
    [
        "model", "max_tokens", "top_k", "top_p", "top_a", "min_tokens", "presence_penalty", "user",
        "metadata", "tops", "n", "", "max_tool_calls", "prompt_cache_key", "maximum_tokens",
    ],
)  # fmt: skip
def test_other_members_are_nobodys_business(given: str) -> None:
    check_spelling(json.dumps({given: {"max_token": 1}}).encode(), KNOWN, GUARDED)
