"""Schemas that are too large are refused by every dialect, at their place in its body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.schema_size import MAX_CHARACTERS
from orchestrator.wire.anthropic import routes as anthropic_routes
from orchestrator.wire.anthropic.request import MessagesBody
from orchestrator.wire.gemini import routes as gemini_routes
from orchestrator.wire.gemini.request import GenerateBody
from orchestrator.wire.openai.chat import request as chat_request
from orchestrator.wire.openai.chat.request import ChatRequest
from orchestrator.wire.openai.responses import request as responses_request
from orchestrator.wire.openai.responses.items import input_items
from orchestrator.wire.openai.responses.request import ResponsesBody
from orchestrator.wire.openai.responses.tools import NO_TOOLS

LARGE: dict[str, Any] = {"type": "object", "description": "x" * MAX_CHARACTERS}
MULTIPLE: dict[str, Any] = {"type": "integer", "multipleOf": 100_003}
MESSAGES = [{"role": "user", "content": "Hi"}]


def chat(schema: dict[str, Any]) -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = {"model": "m", "messages": MESSAGES, "response_format": asked}
    chat_request.decode(msgspec.convert(body, ChatRequest))


def response(schema: dict[str, Any]) -> None:
    asked = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    body = msgspec.convert({"model": "m", "input": "Hi", "text": asked}, ResponsesBody)
    responses_request.decode(body, input_items("Hi"), NO_TOOLS)


def message(schema: dict[str, Any]) -> None:
    asked = {"format": {"type": "json_schema", "schema": schema}}
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 9, "output_config": asked}
    anthropic_routes.decode(msgspec.convert(body, MessagesBody))


def content(member: str, schema: dict[str, Any]) -> None:
    asked = {"responseMimeType": "application/json", member: schema}
    body = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], "generationConfig": asked}
    gemini_routes.decode("m", msgspec.convert(body, GenerateBody))


def function(schema: dict[str, Any]) -> None:
    declared = [{"functionDeclarations": [{"name": "f", "parameters": schema}]}]
    body = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], "tools": declared}
    gemini_routes.decode("m", msgspec.convert(body, GenerateBody))


FORMATS: dict[str, Callable[[dict[str, Any]], None]] = {
    "response_format.json_schema.schema": chat,
    "text.format.schema": response,
    "output_config.format.schema": message,
    "generationConfig.responseJsonSchema": lambda one: content("responseJsonSchema", one),
}
TRANSLATED: dict[str, Callable[[dict[str, Any]], None]] = {
    "generationConfig.responseSchema": lambda one: content("responseSchema", one),
    "tools[0].functionDeclarations[0].parameters": function,
}


@pytest.mark.parametrize("where", [*FORMATS, *TRANSLATED])
def test_a_large_schema_is_refused_at_its_place(where: str) -> None:
    with pytest.raises(InvalidRequest, match="is too large: a schema may have 262144") as caught:
        (FORMATS | TRANSLATED)[where](LARGE)
    assert caught.value.param == where


@pytest.mark.parametrize("where", FORMATS)
def test_every_format_is_checked(where: str) -> None:
    with pytest.raises(InvalidRequest, match="too much") as caught:
        FORMATS[where](MULTIPLE)
    assert caught.value.param == f"{where}.multipleOf"
