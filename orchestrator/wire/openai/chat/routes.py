"""OpenAI's chat completions. Source: OpenAI API reference, chat and chat streaming."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, assert_never

from orchestrator.core.events import (
    Choice,
    ChoiceFinished,
    Completion,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartStarted,
    TokenLogprob,
)
from orchestrator.core.messages import ReasoningPart, TextPart, ToolCallPart
from orchestrator.core.request import GenerationRequest
from orchestrator.http.bodies import BodyReader
from orchestrator.http.exchange import Exchange
from orchestrator.http.routes import Route
from orchestrator.http.sse import send_completion, send_stream
from orchestrator.http.unknown_members import check_spelling
from orchestrator.keys.authenticator import Authenticator
from orchestrator.pipeline.gateway import Gateway
from orchestrator.wire.openai.chat.replies import ChatResponse
from orchestrator.wire.openai.chat.request import GUARDED, ChatRequest, decode
from orchestrator.wire.openai.chunks import (
    chunk_end,
    envelope,
    error_frames,
    escaped,
    last_frames,
    whole_reply,
)
from orchestrator.wire.openai.custom_tools import InputText, input_of
from orchestrator.wire.openai.log_probs import chat_log_probs
from orchestrator.wire.openai.types import json_body


class Encoder:
    """Writes one generation down. One per request.

    Frames end in LF and hold ASCII only, so that a client which cuts them at the wrong place, or
    splits lines on LF alone, still reads them.
    """

    def __init__(
        self,
        *,
        choices: int,
        include_usage: bool,
        fingerprint: str,
        log_probs: bool = False,
        older_calls: bool = False,
        custom_tools: frozenset[str] = frozenset(),
    ) -> None:
        """`older_calls` writes calls as OpenAI did before there were tools, and calls of
        `custom_tools` have an input in place of arguments.
        """
        self._choices = choices
        self._include_usage = include_usage
        self._log_probs = log_probs
        self._older_calls = older_calls
        self._custom_tools = custom_tools
        self._fingerprint = fingerprint
        self._envelope = b""
        self._heads = [b'data: {"choices":[{"index":0,"delta":']
        self._end = chunk_end(include_usage=include_usage)
        self._running = b',"logprobs":null,"finish_reason":null}' + self._end
        self._calls = [0] * choices
        self._inputs: list[InputText | None] = [None] * choices

    def event(self, event: GenerationEvent) -> Sequence[bytes]:
        """The chunks that `event` brings about."""
        match event:
            case PartDelta(kind="text"):
                delta = f'{{"content":{escaped(event.text)}}}'
                if event.logprobs:
                    return (self._chunk_with(event.choice, delta, event.logprobs),)
                return (self._chunk(event.choice, delta),)
            case PartDelta(kind="reasoning"):
                delta = f'{{"reasoning_content":{escaped(event.text)}}}'
                return (self._chunk(event.choice, delta),)
            case PartDelta():
                return self._arguments(event)
            case GenerationStarted():
                return self._started(event)
            case PartStarted(kind="tool_call"):
                return (self._chunk(event.choice, self._tool_call(event)),)
            case PartStarted() | PartFinished():
                return self._input(event.choice, at_end=True)
            case ChoiceFinished():
                reason = self._reason(event.reason)
                return (self._last_chunk(event.choice, reason, event.logprobs),)
            case GenerationFinished():
                return last_frames(self._envelope, event.usage, include_usage=self._include_usage)
            case _:
                assert_never(event)

    def result(self, completion: Completion) -> bytes:
        """The whole reply."""
        choices = [
            self._choice_object(index, choice) for index, choice in enumerate(completion.choices)
        ]
        return whole_reply("chat.completion", completion.id, completion, self._fingerprint, choices)

    def error(self, members: dict[str, Any]) -> Sequence[bytes]:
        """A last chunk with the error in it, and the end of the stream."""
        return error_frames(self._last_chunk(0, "error"), members)

    def _started(self, event: GenerationStarted) -> Sequence[bytes]:
        """Renders what is the same in every chunk, and opens every choice."""
        self._envelope = envelope("chat.completion.chunk", event.id, event, self._fingerprint)
        self._heads = [
            self._envelope + b'{"index":%d,"delta":' % index for index in range(self._choices)
        ]
        opening = '{"role":"assistant","content":""}'
        return [self._chunk(index, opening) for index in range(self._choices)]

    def _chunk(self, choice: int, delta: str) -> bytes:
        return self._heads[choice] + delta.encode("ascii") + self._running

    def _chunk_with(self, choice: int, delta: str, tokens: Sequence[TokenLogprob]) -> bytes:
        head = self._heads[choice] + delta.encode("ascii")
        return (
            head + b',"logprobs":' + _log_probs_text(tokens) + b',"finish_reason":null}' + self._end
        )

    def _last_chunk(self, choice: int, reason: str, tokens: Sequence[TokenLogprob] = ()) -> bytes:
        log_probs = _log_probs_text(tokens) if tokens else b"null"
        end = b'{},"logprobs":%b,"finish_reason":"%b"}' % (log_probs, reason.encode("ascii"))
        return self._heads[choice] + end + self._end

    def _reason(self, reason: str) -> str:
        return "function_call" if self._older_calls and reason == "tool_calls" else reason

    def _tool_call(self, event: PartStarted) -> str:
        index = self._calls[event.choice]
        self._calls[event.choice] += 1
        if event.tool_name in self._custom_tools:
            self._inputs[event.choice] = InputText()
            return (
                f'{{"tool_calls":[{{"index":{index},"id":{escaped(event.tool_call_id)},'
                f'"type":"custom","custom":{{"name":{escaped(event.tool_name)},"input":""}}}}]}}'
            )
        if self._older_calls:
            return f'{{"function_call":{{"name":{escaped(event.tool_name)},"arguments":""}}}}'
        return (
            f'{{"tool_calls":[{{"index":{index},"id":{escaped(event.tool_call_id)},'
            f'"type":"function","function":{{"name":{escaped(event.tool_name)},'
            '"arguments":""}}]}'
        )

    def _arguments(self, event: PartDelta) -> Sequence[bytes]:
        if self._inputs[event.choice] is not None:
            return self._input(event.choice, event.text)
        if self._older_calls:
            delta = f'{{"function_call":{{"arguments":{escaped(event.text)}}}}}'
        else:
            index = self._calls[event.choice] - 1
            function = f'{{"arguments":{escaped(event.text)}}}'
            delta = f'{{"tool_calls":[{{"index":{index},"function":{function}}}]}}'
        return (self._chunk(event.choice, delta),)

    def _input(self, choice: int, arguments: str = "", *, at_end: bool = False) -> Sequence[bytes]:
        """What more of the arguments, or their end, adds to the input of an open custom call."""
        reader = self._inputs[choice]
        if reader is None:
            return ()
        more = reader.feed(arguments)
        if at_end:
            more += reader.finish()
            self._inputs[choice] = None
        if not more:
            return ()
        index = self._calls[choice] - 1
        delta = f'{{"tool_calls":[{{"index":{index},"custom":{{"input":{escaped(more)}}}}}]}}'
        return (self._chunk(choice, delta),)

    def _call_object(self, call: ToolCallPart) -> dict[str, Any]:
        if call.name in self._custom_tools:
            custom = {"name": call.name, "input": input_of(call.arguments)}
            return {"id": call.id, "type": "custom", "custom": custom}
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": call.id, "type": "function", "function": function}

    def _choice_object(self, index: int, choice: Choice) -> dict[str, Any]:
        content, reasoning = "", ""
        calls: list[dict[str, Any]] = []
        for part in choice.parts:
            match part:
                case TextPart(text=text):
                    content += text
                case ReasoningPart(text=text):
                    reasoning += text
                case ToolCallPart():
                    calls.append(self._call_object(part))
                case _:
                    assert_never(part)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not content else content,
            "refusal": None,
        }
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls and self._older_calls:
            message["function_call"] = calls[0]["function"]
        elif calls:
            message["tool_calls"] = calls
        return {
            "index": index,
            "message": message,
            "logprobs": chat_log_probs(choice.logprobs) if self._log_probs else None,
            "finish_reason": self._reason(choice.reason),
        }


def _log_probs_text(tokens: Sequence[TokenLogprob]) -> bytes:
    return json.dumps(chat_log_probs(tokens), separators=(",", ":")).encode("ascii")


_KNOWN = frozenset(ChatRequest.__struct_fields__)
_EXAMPLE = {"model": "demo/chat", "messages": [{"role": "user", "content": "Hello!"}]}


def routes(authenticator: Authenticator, gateway: Gateway, fingerprint: str) -> list[Route]:
    """The routes of this dialect."""
    reader = BodyReader(ChatRequest)

    def read(given: bytes) -> tuple[ChatRequest, GenerationRequest]:
        body = reader.read(given)
        check_spelling(given, _KNOWN, GUARDED)
        return body, decode(body)

    async def create(exchange: Exchange) -> None:
        """Answers a conversation, whole or as server-sent events."""
        principal = await exchange.admit(authenticator)
        body, request = await exchange.decoded(read, gateway.check_limits)
        exchange.model = request.model
        encoder = Encoder(
            choices=request.n,
            include_usage=body.wants_usage,
            fingerprint=fingerprint,
            log_probs=request.top_logprobs is not None,
            older_calls=body.calls_functions,
            custom_tools=body.custom_tools,
        )
        send = send_stream if body.stream else send_completion
        with exchange.while_connected():
            starting = gateway.generate(principal, request, exchange.context("chat"))
            await send(exchange, starting, encoder)

    return [
        Route(
            "POST",
            "/chat/completions",
            create,
            "create_chat_completion",
            "Create a chat completion",
            replace(json_body(ChatRequest, _EXAMPLE, ChatResponse), streams=True),
        )
    ]
