"""One response: the events of a generation in the words of the session's dialect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, assert_never

from orchestrator.core.errors import GatewayError
from orchestrator.core.events import (
    ChoiceFinished,
    FinishReason,
    GenerationEvent,
    GenerationFinished,
    GenerationStarted,
    PartDelta,
    PartFinished,
    PartStarted,
    Usage,
)
from orchestrator.core.ids import new_id
from orchestrator.core.messages import Part, ToolCallPart
from orchestrator.wire.openai.realtime.config import Config, tokens_shown
from orchestrator.wire.openai.realtime.conversation import Conversation
from orchestrator.wire.openai.realtime.faults import error_object
from orchestrator.wire.openai.realtime.items import (
    CallItem,
    Dialect,
    Item,
    Status,
    TextItem,
    item_object,
)

ServerEvent = dict[str, Any]
End = Literal["completed", "incomplete", "cancelled", "failed"]
_CUT: Mapping[FinishReason, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}


@dataclass(slots=True)
class _Open:
    """The item that the model is writing, and what it has written so far."""

    item: TextItem | CallItem
    index: int
    pieces: list[str] = field(default_factory=list)
    whole: str | None = None


class Response:
    """Writes one response down. What it writes goes into `conversation`, if there is one."""

    def __init__(
        self,
        dialect: Dialect,
        config: Config,
        conversation: Conversation | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self.id = new_id("resp")
        self.created = False
        self._dialect = dialect
        self._config = config
        self._conversation = conversation
        self._metadata = metadata
        self._output: list[Item] = []
        self._open: _Open | None = None
        self._reason: FinishReason = "stop"
        self._text = "response.output_text" if dialect == "ga" else "response.text"

    @property
    def is_default(self) -> bool:
        """Whether it writes to the conversation; one at a time may."""
        return self._conversation is not None

    def event(self, event: GenerationEvent) -> Iterator[ServerEvent]:
        """The server events that `event` brings about, the last ones excepted."""
        match event:
            case PartDelta():
                yield from self._delta(event)
            case PartStarted():
                yield from self._start(event)
            case PartFinished():
                # Whether it is complete is known with what follows.
                if self._open is not None:
                    self._open.whole = _text_of(event.part)
            case ChoiceFinished():
                self._reason = event.reason
                yield from self._close("incomplete" if event.reason in _CUT else "completed")
            case GenerationStarted():
                yield from self.create()
            case GenerationFinished():
                yield from self.finish(usage=event.usage)
            case _:
                assert_never(event)

    def create(self) -> Iterator[ServerEvent]:
        """The first event, if it has not been sent yet."""
        if not self.created:
            self.created = True
            yield {"type": "response.created", "response": self._object("in_progress", None)}

    def finish(
        self,
        *,
        usage: Usage | None = None,
        cancelled: bool = False,
        error: GatewayError | None = None,
    ) -> Iterator[ServerEvent]:
        """The last events, whatever has been sent before. Source: `docs/wire.md`."""
        yield from self.create()
        end: End = "completed"
        details: dict[str, Any] | None = None
        if error is not None:
            end, told = "failed", error_object(error)
            details = {"error": {name: told[name] for name in ("type", "code", "message")}}
        elif cancelled:
            end, details = "cancelled", {"reason": "client_cancelled"}
        elif self._reason in _CUT:
            end, details = "incomplete", {"reason": _CUT[self._reason]}
        yield from self._close("incomplete")
        if details is not None:
            details = {"type": end, **details}
        response = self._object(end, details, usage)
        yield {"type": "response.done", "response": response}

    def _start(self, event: PartStarted) -> Iterator[ServerEvent]:
        yield from self._close("completed")
        item_id = new_id("item")
        match event.kind:
            case "reasoning":
                # Neither dialect has an event for what a model thinks.
                return
            case "text":
                self._open = _Open(
                    TextItem(item_id, "assistant", (), "in_progress"), len(self._output)
                )
            case "tool_call":
                call = CallItem(item_id, event.tool_call_id, event.tool_name, "", "in_progress")
                self._open = _Open(call, len(self._output))
            case _:
                assert_never(event.kind)
        item, index = self._open.item, self._open.index
        shown = item_object(item, self._dialect)
        yield self._about("response.output_item.added", output_index=index, item=shown)
        if self._conversation is not None:
            kind = "added" if self._dialect == "ga" else "created"
            previous = self._conversation.append(item)
            yield item_event(kind, shown, previous)
        if isinstance(item, TextItem):
            part = {"type": "text", "text": ""}
            yield self._of_text("response.content_part.added", self._open, part=part)

    def _delta(self, event: PartDelta) -> Iterator[ServerEvent]:
        opened = self._open
        if opened is None or event.kind == "reasoning":
            return
        opened.pieces.append(event.text)
        if isinstance(opened.item, TextItem):
            yield self._of_text(f"{self._text}.delta", opened, delta=event.text)
        else:
            yield self._of_call("delta", opened.item, opened.index, delta=event.text)

    def _close(self, status: Status) -> Iterator[ServerEvent]:
        """Ends the open item, if there is one: `status` is what is known of it by now."""
        opened = self._open
        if opened is None:
            return
        self._open = None
        whole = "".join(opened.pieces) if opened.whole is None else opened.whole
        item: TextItem | CallItem
        if isinstance(opened.item, TextItem):
            item = replace(opened.item, texts=(whole,), status=status)
            yield self._of_text(f"{self._text}.done", opened, text=whole)
            part = {"type": "text", "text": whole}
            yield self._of_text("response.content_part.done", opened, part=part)
        else:
            item = replace(opened.item, arguments=whole, status=status)
            named = {"name": item.name} if self._dialect == "ga" else {}
            yield self._of_call("done", item, opened.index, arguments=whole, **named)
        self._output.append(item)
        shown = item_object(item, self._dialect)
        if self._conversation is not None:
            previous = self._conversation.put(item)
            if self._dialect == "ga":
                yield item_event("done", shown, previous)
        yield self._about("response.output_item.done", output_index=opened.index, item=shown)

    def _of_text(self, kind: str, opened: _Open, **members: Any) -> ServerEvent:
        return self._about(
            kind, item_id=opened.item.id, output_index=opened.index, content_index=0, **members
        )

    def _of_call(self, kind: str, item: CallItem, index: int, **members: Any) -> ServerEvent:
        return self._about(
            f"response.function_call_arguments.{kind}",
            item_id=item.id,
            output_index=index,
            call_id=item.call_id,
            **members,
        )

    def _about(self, kind: str, **members: Any) -> ServerEvent:
        return {"type": kind, "response_id": self.id, **members}

    def _object(
        self, status: str, details: dict[str, Any] | None, usage: Usage | None = None
    ) -> dict[str, Any]:
        conversation = self._conversation
        fixed = {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": [item_object(item, self._dialect) for item in self._output],
            "conversation_id": None if conversation is None else conversation.id,
            "metadata": self._metadata,
            "usage": None if usage is None else usage_object(usage),
        }
        limit = tokens_shown(self._config)
        if self._dialect == "ga":
            return {**fixed, "output_modalities": ["text"], "max_output_tokens": limit}
        return {
            **fixed,
            "modalities": ["text"],
            "temperature": self._config.temperature,
            "max_output_tokens": limit,
        }


def _text_of(part: Part) -> str:
    return part.arguments if isinstance(part, ToolCallPart) else part.text


def item_event(kind: str, item: dict[str, Any], previous: str | None) -> ServerEvent:
    """What is told of an item of the conversation, with the id of the one before it."""
    return {"type": f"conversation.item.{kind}", "previous_item_id": previous, "item": item}


def usage_object(usage: Usage) -> dict[str, Any]:
    """The `usage` of a response. All tokens are of text."""
    return {
        "total_tokens": usage.total_tokens,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "input_token_details": {
            "text_tokens": usage.prompt_tokens,
            "audio_tokens": 0,
            "image_tokens": 0,
            "cached_tokens": usage.cached_tokens,
            "cached_tokens_details": {
                "text_tokens": usage.cached_tokens,
                "audio_tokens": 0,
                "image_tokens": 0,
            },
        },
        "output_token_details": {
            "text_tokens": usage.completion_tokens,
            "audio_tokens": 0,
            "reasoning_tokens": usage.reasoning_tokens,
        },
    }


def rate_limits(headers: Mapping[str, str], now: float) -> ServerEvent:
    """`rate_limits.updated`, from the headers that a reply over HTTP would have."""
    limits = [
        {
            "name": name,
            "limit": int(headers[f"x-ratelimit-limit-{name}"]),
            "remaining": int(headers[f"x-ratelimit-remaining-{name}"]),
            "reset_seconds": max(0.0, int(headers[f"x-ratelimit-reset-{name}"]) - now),
        }
        for name in ("requests", "tokens")
        if f"x-ratelimit-limit-{name}" in headers
    ]
    return {"type": "rate_limits.updated", "rate_limits": limits}
