"""The one internal stream: six kinds of event, and the completion that they form.

Invariant: `GenerationStarted`; then for every choice any number of (`PartStarted`, `PartDelta`*,
`PartFinished`) with at most one part open per choice, then its `ChoiceFinished`; after all choices
`GenerationFinished`. Events of different choices interleave freely. Errors are raised, never an
event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, assert_never

from orchestrator.core.messages import Part
from orchestrator.core.value import value

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
PartKind = Literal["text", "reasoning", "tool_call"]


@value
class Usage:
    """Token counts of one generation, all choices together."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@value
class EngineTimings:
    """The times of the engine's steps for one choice, in Unix nanoseconds."""

    arrived_at_ns: int
    scheduled_at_ns: int
    first_token_at_ns: int
    last_token_at_ns: int


@value
class LikelyToken:
    """A token that could have been drawn. `raw` is its bytes, maybe not a whole character."""

    token_id: int
    raw: bytes
    logprob: float


@value
class TokenLogprob:
    """A token that was drawn, and the likeliest tokens at its position, the likeliest first."""

    token_id: int
    raw: bytes
    logprob: float
    top: tuple[LikelyToken, ...] = ()


@value
class GenerationStarted:
    """The prompt is accepted and the engine works on it. `created_at` is in Unix seconds."""

    id: str
    model: str
    created_at: int
    prompt_tokens: int


@value
class PartStarted:
    """A part opens. For a tool call, this has its id and name; its arguments follow as deltas."""

    choice: int
    kind: PartKind
    tool_call_id: str = ""
    tool_name: str = ""


@value
class PartDelta:
    """More of the open part: whole characters, never empty.

    `logprobs` belong to the tokens read since the previous delta. A token that ends inside a
    character comes with the text that completes the character.
    """

    choice: int
    kind: PartKind
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@value
class PartFinished:
    """The open part is complete. `part` is all of it, so that encoders need not collect text."""

    choice: int
    part: Part


@value
class ChoiceFinished:
    """The last event of this choice.

    `stop_sequence` is the caller's stop string, if one ended the choice. `logprobs` belong to
    the last tokens, which added no text.
    """

    choice: int
    reason: FinishReason
    stop_sequence: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@value
class GenerationFinished:
    """All choices have finished. `timings` has one entry a choice, if the engine reports them."""

    usage: Usage
    timings: tuple[EngineTimings, ...] = ()


ChoiceEvent = PartStarted | PartDelta | PartFinished | ChoiceFinished
GenerationEvent = GenerationStarted | ChoiceEvent | GenerationFinished


@dataclass(slots=True)
class Choice:
    """One finished answer. `logprobs` has the tokens of its text, if they were requested."""

    parts: list[Part] = field(default_factory=list)
    reason: FinishReason = "stop"
    stop_sequence: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)


@value
class Completion:
    """The result of a whole event stream. `choices` are in the order of their index."""

    id: str
    model: str
    created_at: int
    choices: tuple[Choice, ...]
    usage: Usage
    timings: tuple[EngineTimings, ...] = ()


class Batches(Protocol):
    """Events in the groups in which they arrived."""

    async def next(self) -> Sequence[GenerationEvent]:
        """Returns the next events; an empty list after the last. Raises: GatewayError."""
        ...


async def fold(source: Batches) -> Completion:
    """Collects the events of `source` into a completion. Raises what `source` raises."""
    started: GenerationStarted | None = None
    finished: GenerationFinished | None = None
    choices: dict[int, Choice] = {}
    while events := await source.next():
        for event in events:
            match event:
                case GenerationStarted():
                    started = event
                case GenerationFinished():
                    finished = event
                case _:
                    if (choice := choices.get(event.choice)) is None:
                        choice = choices[event.choice] = Choice()
                    _add(choice, event)
    if started is None or finished is None:
        raise ValueError("the event stream ended before it was complete")
    return Completion(
        started.id,
        started.model,
        started.created_at,
        tuple(choices[index] for index in sorted(choices)),
        finished.usage,
        finished.timings,
    )


def _add(choice: Choice, event: ChoiceEvent) -> None:
    match event:
        case PartFinished(part=part):
            choice.parts.append(part)
        case PartDelta(logprobs=logprobs):
            if logprobs:
                choice.logprobs.extend(logprobs)
        case ChoiceFinished():
            choice.reason, choice.stop_sequence = event.reason, event.stop_sequence
            choice.logprobs.extend(event.logprobs)
        case PartStarted():
            pass
        case _:
            assert_never(event)
