"""A generation as a response: the Response object as it grows, and the events that tell of it.

Source: OpenAI API reference, responses and responses streaming.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

from orchestrator.core.errors import GatewayError, InvalidRequest, RateLimited
from orchestrator.core.events import (
    ChoiceFinished,
    Completion,
    FinishReason,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartStarted,
    TokenLogprob,
    Usage,
)
from orchestrator.core.messages import ToolCallPart
from orchestrator.http.field_names import in_words_of
from orchestrator.responses.values import Item, StoredResponse, as_json, failed, item_id
from orchestrator.wire.openai.custom_tools import InputText
from orchestrator.wire.openai.log_probs import chat_log_probs
from orchestrator.wire.openai.responses.frames import Frames
from orchestrator.wire.openai.responses.reasoning import ReasoningSeal
from orchestrator.wire.openai.responses.tools import NO_TOOLS, Offered, Toolbox

_PREFIXES = {"text": "msg", "reasoning": "rs", "tool_call": "fc", "custom": "ctc"}
_CALL_TEXTS = {"function_call": "arguments", "custom_tool_call": "input"}
_INCOMPLETE: Mapping[FinishReason, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}


class ResponseEncoder:
    """Writes one generation down, of one choice. One per response.

    `kept` is what there is to store. An item that is complete is told of with the next event,
    because only that says whether the token limit has cut it.
    """

    def __init__(
        self,
        kept: StoredResponse,
        *,
        first: int = 0,
        logprobs: bool = False,
        tools: Toolbox = NO_TOOLS,
        seal: ReasoningSeal | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`first` is the number of the first event: with any other than 0 it has been created.

        `tools` are those that were offered. With `seal` the text of reasoning items stands in
        `encrypted_content` too.
        """
        self._tenant_id = kept.tenant_id
        self._items = kept.items
        self._body = dict(kept.body)
        self._frames = Frames(first)
        self._created = first > 0
        self._logprobs = logprobs
        self._offered = tools.offered
        self._seal = seal
        self._now = now
        self._output: list[Item] = []
        self._open: Item | None = None
        self._texts: list[str] = []
        self._custom: InputText | None = None
        self._reason: FinishReason = "stop"
        self._failure: list[bytes] = []

    def kept(self) -> StoredResponse:
        """The response as it is now."""
        return StoredResponse(self._tenant_id, self._body, self._items)

    def queued(self) -> list[bytes]:
        """The first events of a response that waits for its turn."""
        self._created = True
        return [self._frames.lifecycle(kind, self._body) for kind in ("created", "queued")]

    def event(self, event: GenerationEvent) -> Sequence[bytes]:
        """The frames that `event` brings about."""
        match event:
            case PartDelta():
                return (self._delta(event),) if self._custom is None else self._input(event.text)
            case GenerationStarted():
                return self._started()
            case PartStarted():
                return self._part_started(event)
            case PartFinished():
                part = event.part
                if self._custom is not None:
                    return self._input_rest()
                self._texts = [part.arguments if isinstance(part, ToolCallPart) else part.text]
                return ()
            case ChoiceFinished():
                self._reason = event.reason
                self._note(event.logprobs)
                return self._close("incomplete" if event.reason in _INCOMPLETE else "completed")
            case GenerationFinished():
                self.conclude(event.usage)
                return (self._frames.end(self._body),)
            case _:
                assert_never(event)

    def conclude(self, usage: Usage) -> None:
        """Makes the response one that has ended. Twice is once."""
        if self._body["usage"] is not None:
            return
        why = _INCOMPLETE.get(self._reason)
        ended: dict[str, Any] = {
            "status": "incomplete" if why else "completed",
            "completed_at": None if why else int(self._now()),
            "incomplete_details": {"reason": why} if why else None,
            "output": self._output,
            "usage": usage_object(usage),
        }
        self._body |= ended

    def disown(self) -> None:
        """Says in the response that it is not stored."""
        self._body["store"] = False

    def result(self, completion: Completion) -> bytes:
        """The whole reply. Every event has come by here, so `completion` says nothing new."""
        del completion
        return as_json(self._body)

    def fail(self, error: GatewayError) -> list[bytes]:
        """The frames that end a response that failed: its open item is closed before."""
        frames = self._close("incomplete")
        if not self._created:
            frames.append(self._frames.lifecycle("created", self._body))
            self._created = True
        self._body = failed(
            {**self._body, "output": self._output}, *_words(in_words_of("responses", error))
        )
        self._failure = [*frames, self._frames.end(self._body)]
        return self._failure

    def error(self, members: Mapping[str, Any]) -> Sequence[bytes]:
        """The same, for a stream. The error itself has been told to `fail` before."""
        del members
        return self._failure

    def _started(self) -> list[bytes]:
        self._body["status"] = "in_progress"
        kinds = ("in_progress",) if self._created else ("created", "in_progress")
        self._created = True
        return [self._frames.lifecycle(kind, self._body) for kind in kinds]

    def _part_started(self, event: PartStarted) -> list[bytes]:
        frames = self._close("completed")
        number, index = len(self._items) + len(self._output), len(self._output)
        offered = self._offered.get(event.tool_name) if event.kind == "tool_call" else None
        self._custom = InputText() if offered is not None and offered.kind == "custom" else None
        prefix = _PREFIXES["custom" if self._custom is not None else event.kind]
        item = _new_item(event, item_id(prefix, self._body["id"], number), offered)
        frames.append(self._frames.item("added", index, item))
        if event.kind != "tool_call":
            frames.append(self._frames.part("added", index, item, _new_part(event.kind, "")))
        self._open, self._texts = item, []
        return frames

    def _delta(self, event: PartDelta) -> bytes:
        assert self._open is not None
        self._texts.append(event.text)
        logprobs = self._note(event.logprobs)
        return self._frames.delta(len(self._output), self._open, event.text, logprobs)

    def _input(self, arguments: str) -> Sequence[bytes]:
        """What more of the arguments adds to the input of the open custom call."""
        assert self._open is not None
        assert self._custom is not None
        more = self._custom.feed(arguments)
        return (self._frames.delta(len(self._output), self._open, more),) if more else ()

    def _input_rest(self) -> Sequence[bytes]:
        """The rest of the input, which only the end of the arguments shows."""
        assert self._open is not None
        assert self._custom is not None
        rest = self._custom.finish()
        return (self._frames.delta(len(self._output), self._open, rest),) if rest else ()

    def _note(self, logprobs: Sequence[TokenLogprob]) -> Sequence[Item]:
        """Adds to the log-probabilities of the open text, if they are wanted."""
        if not (logprobs and self._logprobs and self._open and self._open["type"] == "message"):
            return ()
        written: list[Item] = chat_log_probs(logprobs)["content"]
        self._open.setdefault("logprobs", []).extend(written)
        return written

    def _close(self, status: str) -> list[bytes]:
        """Ends the open item, if there is one."""
        item, index = self._open, len(self._output)
        if item is None:
            return []
        text, logprobs = "".join(self._texts), item.pop("logprobs", [])
        if self._custom is not None:
            item["input"], self._custom = self._custom.text, None
        elif item["type"] == "function_call":
            item["arguments"] = text
        else:
            kind = "text" if item["type"] == "message" else "reasoning"
            item["content"] = [_new_part(kind, text, logprobs)]
            if self._seal is not None and kind == "reasoning":
                item["encrypted_content"] = self._seal.seal(text)
        item["status"] = status
        self._output.append(item)
        self._open = None
        return [*self._frames.done(index, item), self._frames.item("done", index, item)]


def replayed(body: Mapping[str, Any]) -> list[bytes]:
    """The events of a response that is over, each text in one piece."""
    frames = Frames()
    early = {**body, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    early |= {"error": None, "incomplete_details": None}
    written = [frames.lifecycle(kind, early) for kind in ("created", "in_progress")]
    for index, item in enumerate(body["output"]):
        empty = {**item, "status": "in_progress"}
        if (member := _CALL_TEXTS.get(item["type"])) is not None:
            written.append(frames.item("added", index, {**empty, member: ""}))
            text, logprobs = item[member], ()
        else:
            (part,) = item["content"]
            kind = "text" if item["type"] == "message" else "reasoning"
            empty.pop("encrypted_content", None)
            written.append(frames.item("added", index, {**empty, "content": []}))
            written.append(frames.part("added", index, item, _new_part(kind, "")))
            text, logprobs = part["text"], part.get("logprobs", ())
        if text:
            written.append(frames.delta(index, item, text, logprobs))
        written += frames.done(index, item)
        written.append(frames.item("done", index, item))
    return [*written, frames.end(body)]


def usage_object(usage: Usage) -> dict[str, Any]:
    """The Responses API's `usage`."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _new_item(event: PartStarted, own_id: str, offered: Offered | None) -> Item:
    """An output item at its beginning. Each is a dictionary of its own.

    A call names the tool as its caller `offered` it.
    """
    match event.kind:
        case "text":
            item: Item = {"id": own_id, "type": "message", "status": "in_progress"}
            return item | {"role": "assistant", "content": []}
        case "reasoning":
            item = {"id": own_id, "type": "reasoning", "status": "in_progress"}
            return item | {"summary": [], "content": []}
        case "tool_call":
            kind = "function_call"
            if offered is not None and offered.kind == "custom":
                kind = "custom_tool_call"
            item = {"id": own_id, "type": kind, "status": "in_progress"}
            item |= {"call_id": event.tool_call_id}
            item["name"] = event.tool_name if offered is None else offered.name
            if offered is not None and offered.namespace:
                item["namespace"] = offered.namespace
            return item | {_CALL_TEXTS[kind]: ""}
        case _:
            assert_never(event.kind)


def _new_part(kind: str, text: str, logprobs: Sequence[Item] = ()) -> Item:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _words(error: GatewayError) -> tuple[str, str]:
    """Code and message of the error of a response, in OpenAI's closed set of codes."""
    match error:
        case RateLimited():
            return "rate_limit_exceeded", error.message
        case InvalidRequest():
            return "invalid_prompt", error.message
        case _:
            return "server_error", error.message
