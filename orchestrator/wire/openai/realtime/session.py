"""What one client and we have agreed on: settings, conversation, and what a response is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from orchestrator.core.ids import new_id
from orchestrator.core.request import ChatPrompt, GenerationRequest, SamplingParams
from orchestrator.http.bodies import shown
from orchestrator.wire.openai.realtime.client_events import (
    AudioEvent,
    Body,
    ItemBody,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ItemTruncate,
    ResponseBody,
    ResponseCreate,
    SessionUpdate,
)
from orchestrator.wire.openai.realtime.config import Config, changed, dialect_of, session_members
from orchestrator.wire.openai.realtime.conversation import Bounds, Conversation
from orchestrator.wire.openai.realtime.faults import invalid, no_audio
from orchestrator.wire.openai.realtime.items import (
    Dialect,
    Item,
    OutputItem,
    decode_item,
    item_object,
    messages_of,
)
from orchestrator.wire.openai.realtime.response import Response, ServerEvent, item_event

_DROPPED_AT_ONCE = 4
"""One of so many items, the oldest, is left out when they do not fit; then it is tried again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A response that is to be made, and what of."""

    response: Response
    model: str
    config: Config
    items: tuple[Item, ...]

    def request(self) -> GenerationRequest:
        """The request without its dialect."""
        config = self.config
        tools = () if config.tool_choice.mode == "none" else config.tools
        return GenerationRequest(
            model=self.model,
            prompt=ChatPrompt(messages_of(config.instructions, self.items), tools),
            sampling=SamplingParams(temperature=config.temperature),
            max_tokens=config.max_tokens,
            tool_choice=config.tool_choice,
            parallel_tool_calls=config.parallel_tool_calls,
            reasoning=config.reasoning,
        )

    def shorter(self) -> Plan | None:
        """The same without its oldest items, if it may be and there is something to leave out."""
        if not self.config.truncates or len(self.items) < 2:
            return None
        rest = self.items[max(1, len(self.items) // _DROPPED_AT_ONCE) :]
        while len(rest) > 1 and isinstance(rest[0], OutputItem):
            # Nothing is left of the call that this answers.
            rest = rest[1:]
        return replace(self, items=rest)


class Session:
    """The state of one session, without its socket. `dialect` is `None` while nobody knows."""

    def __init__(
        self, model: str, dialect: Dialect | None, *, bounds: Bounds, expires_at: int
    ) -> None:
        self.id = new_id("sess")
        self.model = model
        self.conversation = Conversation(bounds)
        self._dialect = dialect
        self._expires_at = expires_at
        self._config = Config()
        self._config_bytes = 0

    @property
    def dialect(self) -> Dialect:
        """The client's; where it did not show, GA, which it then stays."""
        self._dialect = self._dialect or "ga"
        return self._dialect

    @property
    def size(self) -> int:
        """Bytes of the conversation and of what the client has configured."""
        return self.conversation.size + self._config_bytes

    def opening(self) -> Iterator[ServerEvent]:
        """What a client is told first."""
        yield {"type": "session.created", "session": self._object()}
        if self._dialect == "beta":
            conversation = {"id": self.conversation.id, "object": "realtime.conversation"}
            yield {"type": "conversation.created", "conversation": conversation}

    def take(self, body: Body) -> Sequence[ServerEvent]:
        """The answer to an event that is not about responses. Raises: InvalidRequest."""
        match body:
            case SessionUpdate():
                return (self._update(body),)
            case ItemCreate():
                return self._create(body)
            case ItemRetrieve():
                item = self._shown(self.conversation.get(body.item_id))
                return ({"type": "conversation.item.retrieved", "item": item},)
            case ItemDelete():
                self.conversation.delete(body.item_id)
                return ({"type": "conversation.item.deleted", "item_id": body.item_id},)
            case ItemTruncate():
                self.conversation.get(body.item_id, "truncate")
                raise invalid(
                    f"The item {shown(body.item_id)} has no audio; only audio can be truncated.",
                    "item_id",
                )
            case AudioEvent():
                raise no_audio(f"`{body.type}`", "type")
            case _:
                raise AssertionError(f"{type(body).__name__} is not for `take`")

    def plan(self, body: ResponseCreate) -> Plan:
        """The response that a client asks for. Raises: InvalidRequest."""
        asked = body.response or ResponseBody()
        config = changed(self._config, asked, "response")
        items = self._input(asked)
        if not items and not config.instructions:
            raise invalid(
                "There is nothing to respond to: the conversation has no items, and there are no"
                " instructions."
            )
        conversation: Conversation | None = self.conversation
        match asked.conversation:
            case None | "auto":
                self.conversation.check_room()
            case "none":
                conversation = None
            case _:
                raise invalid(
                    "`response.conversation` must be `auto` or `none`; "
                    f"{shown(asked.conversation)} was given.",
                    "response.conversation",
                )
        response = Response(self.dialect, config, conversation, asked.metadata)
        return Plan(response, self.model, config, items)

    def _update(self, body: SessionUpdate) -> ServerEvent:
        wanted = body.session
        if wanted.type is not None and wanted.type != "realtime":
            raise no_audio(f"A session of the type {shown(wanted.type)}", "session.type")
        if wanted.model is not None and wanted.model != self.model:
            raise invalid(
                f"The model of a session cannot be changed from `{self.model}`; "
                f"{shown(wanted.model)} was given.",
                "session.model",
            )
        self._config = changed(self._config, wanted, "session")
        self._config_bytes = len(msgspec.json.encode(self._object()))
        self._dialect = self._dialect or dialect_of(wanted)
        return {"type": "session.updated", "session": self._object()}

    def _create(self, body: ItemCreate) -> Sequence[ServerEvent]:
        item = decode_item(body.item, "item")
        previous = self.conversation.create(item, body.previous_item_id)
        kinds = ("added", "done") if self.dialect == "ga" else ("created",)
        return [item_event(kind, self._shown(item), previous) for kind in kinds]

    def _input(self, asked: ResponseBody) -> tuple[Item, ...]:
        if asked.input is None:
            return self.conversation.items
        bodies = enumerate(asked.input)
        return tuple(self._item(body, f"response.input[{index}]") for index, body in bodies)

    def _item(self, body: ItemBody, where: str) -> Item:
        """An item of a response's own, or the one of the conversation that it refers to."""
        if body.type == "item_reference":
            return self.conversation.get(body.id or "")
        return decode_item(body, where)

    def _shown(self, item: Item) -> dict[str, Any]:
        return item_object(item, self.dialect)

    def _object(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "realtime.session",
            "model": self.model,
            "expires_at": self._expires_at,
            **session_members(self._config, self._dialect),
        }
