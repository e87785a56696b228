"""Reading an answer whole or in pieces, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from orchestrator.contract.catalogue import Parser
from orchestrator.core.events import (
    ChoiceFinished,
    GenerationEvent,
    PartDelta,
    PartFinished,
    PartStarted,
)
from orchestrator.core.messages import Part, ReasoningPart, ToolCallPart
from orchestrator.core.request import GenerationRequest
from orchestrator.rendering.output_parsers import EndReason, OutputParser, output_parser
from orchestrator.rendering.output_parsers.reasoning import Thinking
from tests.unit.rendering.conftest import asking

Shown = str | tuple[str, str]
"""A part: text, a call as name and arguments, reasoning as text behind `thinks`."""

TOOLS = asking("weather", "f", "g")


class Reading:
    """What one family's parser makes of one answer."""

    def __init__(
        self,
        parser: Parser,
        text: str,
        reason: EndReason = "stop",
        *,
        cuts: Sequence[int] = (),
        request: GenerationRequest = TOOLS,
        thinking: Thinking = "no",
    ) -> None:
        reader = output_parser(0, request, parser, thinking)
        self.events: list[GenerationEvent] = []
        places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
        for start, end in pairwise(places):
            self.events += reader.feed(text[start:end])
        self.ended = reader.ended
        self.events += reader.finish(reason)
        check_order(self.events)
        last = self.events[-1]
        assert isinstance(last, ChoiceFinished)
        self.reason = last.reason
        self.parts = [shown(one.part) for one in self.events if isinstance(one, PartFinished)]

    @property
    def result(self) -> tuple[list[Shown], str]:
        """The parts and the reason."""
        return self.parts, self.reason


def read_every_way(
    parser: Parser,
    text: str,
    reason: EndReason = "stop",
    *,
    request: GenerationRequest = TOOLS,
    thinking: Thinking = "no",
) -> Reading:
    """`text` read at once; letter by letter and cut in two at any place it must be the same."""
    whole = Reading(parser, text, reason, request=request, thinking=thinking)
    for cuts in (range(len(text)), *((place,) for place in range(1, len(text)))):
        again = Reading(parser, text, reason, cuts=cuts, request=request, thinking=thinking)
        assert again.result == whole.result
        assert again.ended == whole.ended
    return whole


def shown(part: Part) -> Shown:
    if isinstance(part, ToolCallPart):
        assert part.id.startswith("call_")
        return part.name, part.arguments
    if isinstance(part, ReasoningPart):
        return f"thinks {part.text}"
    return part.text


def check_order(events: Sequence[GenerationEvent]) -> None:
    """At most one part open; its deltas add up to it; ids fit."""
    started, text = None, ""
    for event in events[:-1]:
        match event:
            case PartStarted():
                assert started is None
                started, text = event, ""
            case PartDelta(kind=kind, text=more):
                assert started is not None
                assert kind == started.kind
                assert more
                text += more
            case PartFinished(part=part):
                assert started is not None
                if isinstance(part, ToolCallPart):
                    assert (part.id, part.name) == (started.tool_call_id, started.tool_name)
                    assert part.arguments == text
                else:
                    assert part.text == text
                    assert text
                started = None
            case _:
                raise AssertionError(event)
    assert started is None


def letter_by_letter(parser: OutputParser, text: str) -> list[str]:
    """What each letter brings: the text of a delta, `name(` for a call, `)` for its end."""
    told = []
    for letter in text:
        for event in parser.feed(letter):
            match event:
                case PartStarted(kind="tool_call", tool_name=name):
                    told.append(f"{name}(")
                case PartDelta(text=more):
                    told.append(more)
                case PartFinished(part=ToolCallPart()):
                    told.append(")")
    return told
