"""Prompts and answers in the words of the conventions."""

from __future__ import annotations

import json

import pytest

from orchestrator.core.messages import Message, ReasoningPart, TextPart, ToolCallPart
from orchestrator.core.request import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from orchestrator.telemetry.content import input_messages, output_messages

CALL = ToolCallPart("call_1", "weather", '{"city":"Rome"}')
CALLED = {"type": "tool_call", "id": "call_1", "name": "weather", "arguments": '{"city":"Rome"}'}


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        (TextPrompt("hi"), [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]),
        (
            TokenPrompt((1, 2)),
            [{"role": "user", "parts": [{"type": "text", "content": "2 token ids"}]}],
        ),
        (
            ChatPrompt(
                (
                    Message("system", (TextPart("be brief"),)),
                    Message("assistant", (CALL,)),
                    Message("tool", (TextPart("sunny"),), tool_call_id="call_1"),
                )
            ),
            [
                {"role": "system", "parts": [{"type": "text", "content": "be brief"}]},
                {"role": "assistant", "parts": [CALLED]},
                {
                    "role": "tool",
                    "parts": [{"type": "tool_call_response", "id": "call_1", "response": "sunny"}],
                },
            ],
        ),
    ],
)
def test_a_prompt_is_told_message_by_message(prompt: Prompt, messages: object) -> None:
    assert json.loads(input_messages(prompt)) == messages


def test_an_answer_is_told_part_by_part() -> None:
    told = json.loads(output_messages((ReasoningPart("hm"), TextPart("yes"), CALL), "tool_calls"))
    assert told == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "hm"},
                {"type": "text", "content": "yes"},
                CALLED,
            ],
            "finish_reason": "tool_calls",
        }
    ]
