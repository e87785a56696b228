"""Sorts what a model writes into parts. One reader per syntax of tool calls."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.contract.catalogue import Parser
from orchestrator.core.events import GenerationEvent
from orchestrator.core.request import ChatPrompt, GenerationRequest
from orchestrator.rendering.output_parsers import gemma, hermes, llama3, mistral
from orchestrator.rendering.output_parsers.forced import ForcedCallsReader, NamedCallReader
from orchestrator.rendering.output_parsers.parts import EndReason, Parts
from orchestrator.rendering.output_parsers.reader import PlainReader, Reader, ToolReader
from orchestrator.rendering.output_parsers.reasoning import CLOSING, ReasoningReader, Thinking
from orchestrator.rendering.output_parsers.reasoning import OPENING as THINKING_OPENING

__all__ = [
    "PARSER_TOKENS",
    "RESULT_TOKENS",
    "THINKING_TOKENS",
    "EndReason",
    "OutputParser",
    "is_held_to_json",
    "output_parser",
]

THINKING_TOKENS = (THINKING_OPENING, CLOSING)

PARSER_TOKENS: Mapping[Parser, tuple[str, ...]] = {
    "plain": (),
    "hermes": hermes.TOKENS,
    "qwen": hermes.TOKENS,
    "llama3": llama3.TOKENS,
    "mistral": mistral.TOKENS,
    "gemma": gemma.TOKENS,
}
"""Markers that parsers look for. Their tokens reach the parser; callers' text cannot form them."""

RESULT_TOKENS: Mapping[Parser, tuple[str, ...]] = {
    "plain": (),
    "hermes": hermes.RESULT_TOKENS,
    "qwen": hermes.RESULT_TOKENS,
    "llama3": (),
    "mistral": mistral.RESULT_TOKENS,
    "gemma": gemma.RESULT_TOKENS,
}
"""Markers that templates write around tool results. Callers and models must not write them."""


class OutputParser:
    """Turns the text of one choice into its events. O(n) overall, however the text arrives."""

    def __init__(self, parts: Parts, reader: Reader, reasoning: ReasoningReader | None) -> None:
        self._parts = parts
        self._reader = reader
        self._reasoning = reasoning
        self.is_stepwise = reasoning is not None or parts.single_call
        """Whether text must be read token by token, because counts depend on it."""

    @property
    def thinking(self) -> Thinking:
        """Whether the last text read was reasoning."""
        return "no" if self._reasoning is None else self._reasoning.thinking

    @property
    def ended(self) -> bool:
        """Whether the answer is complete, even if the engine would write more."""
        return self._parts.ended

    @property
    def held(self) -> int:
        """Number of last characters read that may still turn out to be text."""
        if self._reasoning is not None:
            return self._reasoning.held + self._parts.held
        return self._reader.held + self._parts.held

    def read(self, text: str) -> None:
        """Reads more text; `take` returns its events."""
        if (reasoning := self._reasoning) is not None:
            text = reasoning.read(text)
            if reasoning.thinking == "no":
                self._reasoning = None
                self.is_stepwise = self._parts.single_call
        if text:
            self._reader.read(text)

    def take(self) -> list[GenerationEvent]:
        """Returns the events since the last call."""
        return self._parts.take()

    def feed(self, text: str) -> list[GenerationEvent]:
        """Reads `text` and returns its events."""
        if self._reasoning is None:
            self._reader.read(text)
        else:
            self.read(text)
        return self._parts.take()

    def finish(self, reason: EndReason, stop_sequence: str | None = None) -> list[GenerationEvent]:
        """Returns the last events; the very last is `ChoiceFinished` with the true reason."""
        if self._reasoning is not None:
            self._reader.read(self._reasoning.finish())
            self._reasoning = None
        self._reader.finish(cut=reason == "length")
        self._parts.finish(reason, stop_sequence)
        return self._parts.take()


def output_parser(
    choice: int, request: GenerationRequest, parser: Parser, thinking: Thinking
) -> OutputParser:
    """Makes the parser for one choice of `request`. `thinking` is the state after the prompt."""
    tools = request.prompt.tools if isinstance(request.prompt, ChatPrompt) else ()
    mode = request.tool_choice.mode if tools else "none"
    single = mode != "none" and not request.parallel_tool_calls
    if mode in ("required", "named"):
        parts = Parts(choice, single_call=single)
        if mode == "named":
            return OutputParser(parts, NamedCallReader(parts, request.tool_choice.name), None)
        return OutputParser(parts, ForcedCallsReader(parts), None)
    looks = mode == "auto" and parser != "plain"
    parts = Parts(choice, trims=looks, single_call=single)
    reader: Reader = PlainReader(parts)
    if looks:
        reader = _tool_reader(parts, parser, frozenset(tool.name for tool in tools))
    if thinking == "no" or is_held_to_json(request):
        return OutputParser(parts, reader, None)
    return OutputParser(parts, reader, ReasoningReader(parts, opened=thinking == "yes"))


def is_held_to_json(request: GenerationRequest) -> bool:
    """Whether the engine may write only JSON, and therefore no reasoning."""
    tools = isinstance(request.prompt, ChatPrompt) and request.prompt.tools
    forced = tools and request.tool_choice.mode in ("required", "named")
    return bool(forced) or request.response_format is not None


def _tool_reader(parts: Parts, parser: Parser, names: frozenset[str]) -> Reader:
    match parser:
        case "llama3":
            return ToolReader(parts, llama3.Llama3(parts, names))
        case "mistral":
            return ToolReader(parts, mistral.Mistral(parts))
        case "gemma":
            return ToolReader(parts, gemma.Gemma(parts))
        case "hermes" | "qwen" | "plain":
            return ToolReader(parts, hermes.Hermes(parts))
