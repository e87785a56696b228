"""Events of the Responses API as server-sent events, numbered, each with its `event:` line.

ASCII and LF only, one write for each. Source: OpenAI API reference, responses streaming.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.responses.values import Item, lifecycle_frame

_escaped = json.encoder.encode_basestring_ascii
_ENDS = {"completed": "response.completed", "incomplete": "response.incomplete"}
_DELTAS = {
    "message": ("response.output_text.delta", ',"content_index":0', ',"logprobs":[]}\n\n'),
    "reasoning": ("response.reasoning_text.delta", ',"content_index":0', "}\n\n"),
    "function_call": ("response.function_call_arguments.delta", "", "}\n\n"),
    "custom_tool_call": ("response.custom_tool_call_input.delta", "", "}\n\n"),
}


class Frames:
    """Renders the events of one response, and numbers them from `first`."""

    def __init__(self, first: int = 0) -> None:
        self._number = first
        self._pieces: dict[int, tuple[str, str, str]] = {}

    def lifecycle(self, kind: str, body: Mapping[str, Any]) -> bytes:
        """`response.<kind>`, with the whole response."""
        return lifecycle_frame(f"response.{kind}", self._next(), body)

    def end(self, body: Mapping[str, Any]) -> bytes:
        """The last event of a response that is over."""
        return lifecycle_frame(_ENDS.get(body["status"], "response.failed"), self._next(), body)

    def item(self, step: str, index: int, item: Item) -> bytes:
        """`response.output_item.<step>`."""
        return self._event(f"response.output_item.{step}", {"output_index": index, "item": item})

    def part(self, step: str, index: int, item: Item, part: Item) -> bytes:
        """`response.content_part.<step>`; an item has one part, number 0."""
        return self._event(
            f"response.content_part.{step}",
            {"item_id": item["id"], "output_index": index, "content_index": 0, "part": part},
        )

    def delta(
        self, index: int, item: Item, text: str, logprobs: Sequence[Mapping[str, Any]] = ()
    ) -> bytes:
        """More of the item's text, reasoning, arguments or input. No dictionary is made for it."""
        before, between, after = self._pieces.get(index) or self._delta_pieces(index, item)
        if logprobs:
            after = f',"logprobs":{json.dumps(logprobs, separators=(",", ":"))}}}\n\n'
        return f"{before}{self._next()}{between}{_escaped(text)}{after}".encode("ascii")

    def done(self, index: int, item: Item) -> list[bytes]:
        """What tells that the item's text is whole, and its part with it."""
        if item["type"] == "function_call":
            members = {"name": item["name"], "arguments": item["arguments"]}
            kind = "response.function_call_arguments.done"
            return [self._event(kind, {"item_id": item["id"], "output_index": index, **members})]
        if item["type"] == "custom_tool_call":
            kind, members = "response.custom_tool_call_input.done", {"input": item["input"]}
            return [self._event(kind, {"item_id": item["id"], "output_index": index, **members})]
        (part,) = item["content"]
        kind = "response.output_text.done"
        members = {"item_id": item["id"], "output_index": index, "content_index": 0}
        members["text"] = part["text"]
        if item["type"] == "reasoning":
            kind = "response.reasoning_text.done"
        else:
            members["logprobs"] = part["logprobs"]
        return [self._event(kind, members), self.part("done", index, item, part)]

    def _delta_pieces(self, index: int, item: Item) -> tuple[str, str, str]:
        """What stands before the number, between it and the text, and behind the text."""
        kind, place, after = _DELTAS[item["type"]]
        between = f',"item_id":{_escaped(item["id"])},"output_index":{index}{place},"delta":'
        before = f'event: {kind}\ndata: {{"type":"{kind}","sequence_number":'
        # One item is open at a time.
        self._pieces = {index: (before, between, after)}
        return self._pieces[index]

    def _event(self, kind: str, members: Mapping[str, Any]) -> bytes:
        event = {"type": kind, "sequence_number": self._next(), **members}
        text = json.dumps(event, separators=(",", ":"))
        return f"event: {kind}\ndata: {text}\n\n".encode("ascii")

    def _next(self) -> int:
        self._number += 1
        return self._number - 1
