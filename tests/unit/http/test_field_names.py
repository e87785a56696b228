"""Errors of the pipeline name members as the caller's dialect does."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import ContextLengthExceeded, InvalidRequest, RateLimited
from orchestrator.http.field_names import in_words_of


@pytest.mark.parametrize(
    ("dialect", "given", "told"),
    [
        ("chat", "response_format", "response_format"),
        ("responses", "response_format", "text.format"),
        ("messages", "response_format", "output_config.format"),
        ("gemini", "response_format", "generationConfig.responseSchema"),
        ("gemini", "max_tokens", "generationConfig.maxOutputTokens"),
        ("completions", "messages", "prompt"),
        ("realtime", "max_tokens", "max_output_tokens"),
    ],
)
def test_a_member_is_named_as_the_dialect_has_it(dialect: str, given: str, told: str) -> None:
    error = in_words_of(dialect, InvalidRequest(f"`{given}` is wrong.", param=given))
    assert (error.param, error.message) == (told, f"`{told}` is wrong.")
    assert str(error) == error.message


def test_an_index_stays_and_the_kind_of_error_too() -> None:
    long = ContextLengthExceeded("`input[3]` has 9 tokens.", param="input", retryable=False)
    error = in_words_of("gemini_batch", long)
    assert isinstance(error, ContextLengthExceeded)
    assert (error.message, error.param) == ("`requests[3]` has 9 tokens.", "requests")
    assert error.retryable is False
    assert (long.message, long.param) == ("`input[3]` has 9 tokens.", "input")


@pytest.mark.parametrize(
    ("dialect", "told", "param"),
    [
        ("chat", "This model's maximum context length is 64 tokens.", "messages"),
        ("responses", "This model's maximum context length is 64 tokens.", "input"),
        # Claude Code 2.1.197 reads both numbers out of it.
        ("messages", "prompt is too long: 65 tokens > 63 maximum", "messages"),
        (
            "gemini",
            "The input token count (65) exceeds the maximum number of tokens allowed (63).",
            "contents",
        ),
    ],
)
def test_a_prompt_that_is_too_long_is_told_as_its_agents_know_it(
    dialect: str, told: str, param: str
) -> None:
    text = "This model's maximum context length is 64 tokens."
    long = ContextLengthExceeded(text, param="messages", prompt_tokens=65, most=63)
    error = in_words_of(dialect, long)
    assert (error.message, error.param, error.code) == (told, param, "context_length_exceeded")


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("Wrong."), InvalidRequest("No.", param="seed"), RateLimited("60 a minute.")],
)
def test_other_errors_are_left_alone(error: InvalidRequest) -> None:
    assert in_words_of("gemini", error) is error
