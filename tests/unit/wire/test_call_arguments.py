"""Arguments that models write and no client expects: they make no error of ours."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.events import Choice, Completion, Usage
from orchestrator.core.messages import ToolCallPart
from orchestrator.core.request import ChatPrompt
from orchestrator.wire import anthropic_messages, anthropic_messages_encoder, gemini_encoder
from orchestrator.wire.anthropic_messages_types import MessagesBody
from orchestrator.wire.bodies import called_text
from orchestrator.wire.call_arguments import arguments_object

LONG = "1" * 300


def completion(arguments: str) -> Completion:
    call = ToolCallPart("call_1", "add", arguments)
    choice = Choice([call], "tool_calls")
    return Completion("chatcmpl-1", "acme/chat", 1, (choice,), Usage(3, 2))


def anthropic(arguments: str) -> dict[str, Any]:
    encoder = anthropic_messages_encoder.Encoder(thinking=False)
    (block,) = json.loads(encoder.result(completion(arguments)))["content"]
    told: dict[str, Any] = block["input"]
    return told


def gemini(arguments: str) -> dict[str, Any]:
    encoder = gemini_encoder.Encoder(events=False)
    (candidate,) = json.loads(encoder.result(completion(arguments)))["candidates"]
    (part,) = candidate["content"]["parts"]
    told: dict[str, Any] = part.get("functionCall", {}).get("args", {})
    return told


@pytest.mark.parametrize("tell", [anthropic, gemini])
def test_a_number_of_any_length_is_told_to_the_digit(tell: Any) -> None:
    assert tell(f'{{"age": {LONG}}}') == {"age": int(LONG)}


@pytest.mark.parametrize("tell", [anthropic, gemini])
def test_a_number_beyond_all_is_null_beside_a_long_one(tell: Any) -> None:
    assert tell(f'{{"age": {LONG}, "size": 1e999}}') == {"age": int(LONG), "size": None}


@pytest.mark.parametrize("tell", [anthropic, gemini])
@pytest.mark.parametrize(
    "arguments", ['{"a":' * 300 + "1" + "}" * 300, '{"a": NaN}', "[1]", '{"a": "\\ud800"}']
)
def test_what_is_no_object_is_one_without_members(tell: Any, arguments: str) -> None:
    assert tell(arguments) == {}


def test_a_call_that_was_cut_has_what_there_is() -> None:
    assert arguments_object('{"a": 1, "b', cut=True) == {"a": 1}
    assert arguments_object('{"a": 1, "b') is None


def test_what_a_model_wrote_may_come_back() -> None:
    assert called_text({"age": int(LONG)}, "input") == f'{{"age":{LONG}}}'
    block = {"type": "tool_use", "id": "i", "name": "f", "input": {"age": int(LONG)}}
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [block]}]
    body = {"model": "m", "max_tokens": 1, "messages": turns}
    request = anthropic_messages.decode(msgspec.convert(body, MessagesBody))
    assert isinstance(request.prompt, ChatPrompt)
    (call,) = request.prompt.messages[-1].parts
    assert isinstance(call, ToolCallPart)
    assert call.arguments == f'{{"age":{LONG}}}'


def test_there_is_an_end_to_the_nesting_of_what_comes_back() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidRequest) as caught:
        called_text({"a": deep}, "messages[0].content[0].input")
    assert caught.value.param == "messages[0].content[0].input"
