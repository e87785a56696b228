"""Translates the member names in errors into the dialect of the request.

The pipeline names members as OpenAI's chat does. A caller of another dialect looks for the members
of its own body.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping

from orchestrator.core.errors import ContextLengthExceeded, GatewayError, InvalidRequest

_WORDS: Mapping[str, Mapping[str, str]] = {
    "completions": {"messages": "prompt"},
    "responses": {
        "messages": "input",
        "prompt": "input",
        "max_tokens": "max_output_tokens",
        "response_format": "text.format",
        "logprobs": "include",
    },
    "messages": {"prompt": "messages", "response_format": "output_config.format"},
    "gemini": {
        "messages": "contents",
        "prompt": "contents",
        "max_tokens": "generationConfig.maxOutputTokens",
        "response_format": "generationConfig.responseSchema",
        "tool_choice": "toolConfig.functionCallingConfig",
        "logprobs": "generationConfig.responseLogprobs",
        "top_logprobs": "generationConfig.logprobs",
    },
    "gemini_embeddings": {"input": "content", "dimensions": "outputDimensionality"},
    "gemini_batch": {"input": "requests", "dimensions": "requests[0].outputDimensionality"},
    "realtime": {"messages": "conversation", "max_tokens": "max_output_tokens"},
}
"""Names by dialect, as in a call's context; names that are not listed are the same in both."""
_TOO_LONG: Mapping[str, str] = {
    "messages": "prompt is too long: {tokens} tokens > {most} maximum",
    "gemini": "The input token count ({tokens}) exceeds the maximum number of tokens allowed"
    " ({most}).",
}
"""The providers' own messages: Claude Code reads the numbers, and other agents match the words, to
shorten the conversation.
"""


def in_words_of(dialect: str, error: GatewayError) -> GatewayError:
    """`error` with the dialect's member names; the same object where nothing changes."""
    if not isinstance(error, InvalidRequest):
        return error
    theirs = error.param or ""
    ours = _WORDS.get(dialect, {}).get(theirs)
    message = error.message
    if ours is not None:
        message = re.sub(rf"`{re.escape(theirs)}(?=[`.\[])", lambda _: f"`{ours}", message)
    if isinstance(error, ContextLengthExceeded) and error.prompt_tokens is not None:
        words = _TOO_LONG.get(dialect)
        if words is not None:
            message = words.format(tokens=error.prompt_tokens, most=error.most)
    if ours is None and message == error.message:
        return error
    told = copy.copy(error)
    told.message, told.args = message, (message,)
    told.param = ours or error.param
    return told
