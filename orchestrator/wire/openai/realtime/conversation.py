"""The items of a session in their order, and how many there may be."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.ids import new_id
from orchestrator.http.bodies import shown
from orchestrator.wire.openai.realtime.faults import invalid
from orchestrator.wire.openai.realtime.items import CallItem, Item, OutputItem

_FIRST = "root"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a conversation may hold."""

    items: int
    bytes: int


class Conversation:
    """The default conversation of one session."""

    def __init__(self, bounds: Bounds) -> None:
        self.id = new_id("conv")
        self._bounds = bounds
        self._items: list[Item] = []
        self._size = 0

    @property
    def items(self) -> tuple[Item, ...]:
        """What is complete, or was cut: what a model can be told."""
        return tuple(item for item in self._items if item.status != "in_progress")

    @property
    def size(self) -> int:
        """Bytes of all its items."""
        return self._size

    def check_room(self, size: int = 0) -> None:
        """Raises: InvalidRequest when there is no room for another item of `size`."""
        bounds = self._bounds
        if len(self._items) >= bounds.items:
            raise invalid(
                f"The conversation may have {bounds.items} items at most, and has them; "
                "delete some.",
                code="conversation_full",
            )
        if self._size + size > bounds.bytes:
            raise invalid(
                f"The conversation may have {bounds.bytes} bytes at most; it has {self._size}, "
                f"and {size} were to be added.",
                code="conversation_full",
            )

    def create(self, item: Item, after: str | None) -> str | None:
        """Adds a client's item; the id of the one before it. Raises: InvalidRequest."""
        self.check_room(item.size)
        if self._position(item.id) is not None:
            raise invalid(
                f"The conversation already has an item {shown(item.id)}.",
                "item.id",
                "item_create_duplicate_item_id",
            )
        if isinstance(item, OutputItem) and not self._has_call(item.call_id):
            raise invalid(
                f"The conversation has no call {shown(item.call_id)} that this could answer.",
                "item.call_id",
                "invalid_tool_call_id",
            )
        if after is None:
            return self.append(item)
        position = 0 if after == _FIRST else self._after(after)
        self._items.insert(position, item)
        self._size += item.size
        return self._items[position - 1].id if position else None

    def append(self, item: Item) -> str | None:
        """Adds an item at the end, whatever the bounds; the id of the one before it."""
        previous = self._items[-1].id if self._items else None
        self._items.append(item)
        self._size += item.size
        return previous

    def put(self, item: Item) -> str | None:
        """Puts `item` in the place of the one with its id; the id of the one before it.

        Does nothing when the client has deleted that one meanwhile.
        """
        position = self._position(item.id)
        if position is None:
            return None
        self._size += item.size - self._items[position].size
        self._items[position] = item
        return self._items[position - 1].id if position else None

    def get(self, item_id: str, act: str = "retrieve") -> Item:
        """The item of that id. Raises: InvalidRequest, with the code of `act`."""
        position = self._position(item_id)
        if position is None:
            raise invalid(
                f"The conversation has no item {shown(item_id)}.",
                "item_id",
                f"item_{act}_invalid_item_id",
            )
        return self._items[position]

    def delete(self, item_id: str) -> None:
        """Raises: InvalidRequest."""
        item = self.get(item_id, "delete")
        self._items.remove(item)
        self._size -= item.size

    def _after(self, item_id: str) -> int:
        position = self._position(item_id)
        if position is None:
            raise invalid(
                f"`previous_item_id` names no item of the conversation; {shown(item_id)} "
                "was given.",
                "previous_item_id",
                "item_create_invalid_previous_item_id",
            )
        return position + 1

    def _position(self, item_id: str) -> int | None:
        items = enumerate(self._items)
        return next((position for position, item in items if item.id == item_id), None)

    def _has_call(self, call_id: str) -> bool:
        return any(isinstance(item, CallItem) and item.call_id == call_id for item in self._items)
