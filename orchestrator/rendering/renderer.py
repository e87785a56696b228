"""Everything between messages and token ids of one model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, assert_never

import orjson

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Message, ReasoningPart, TextPart, Tool, ToolCallPart
from orchestrator.core.request import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from orchestrator.rendering.chat_template import ChatTemplate
from orchestrator.rendering.decoder import Decoder
from orchestrator.rendering.detokenizer import Detokenizer
from orchestrator.rendering.files import load_files
from orchestrator.rendering.output_parsers import HermesParser, OutputParser, PlainParser
from orchestrator.rendering.tokenizer import PromptTokenizer

ParserName = Literal["plain", "hermes"]

LONG_PROMPT_CHARACTERS = 4_000
"""From here on rendering takes about a millisecond or more (0.2 µs a character measured) and
belongs in a thread, where the tokenizer runs without the GIL."""

_MARKERS: Mapping[ParserName, tuple[str, ...]] = {
    "plain": (),
    "hermes": ("<tool_call>", "</tool_call>"),
}


class Renderer:
    """One per model version directory. Immutable, thread-safe."""

    def __init__(self, directory: Path, *, parser: ParserName) -> None:
        """Reads the tokenizer's files. Raises: RenderingError."""
        files = load_files(directory)
        self._tokenizer = PromptTokenizer(files)
        self._template = ChatTemplate(files.templates, files.named_tokens, directory)
        self._parser: ParserName = parser
        vocabulary = self._tokenizer.vocabulary
        markers = {vocabulary.token_to_id(text) for text in _MARKERS[parser]}
        # Special tokens never show in an answer, those that the parser looks for excepted.
        self._skipped = self._tokenizer.private_ids | (self._tokenizer.specials.ids - markers)

    @property
    def vocabulary_size(self) -> int:
        """One more than the highest id."""
        return self._tokenizer.size

    def render(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids. Raises: InvalidRequest.

        A special token's text inside a message, or in any other value of a caller, is plain text.
        Only a `TextPrompt`, which is the whole prompt, may write special tokens out.
        """
        match prompt:
            case ChatPrompt():
                return self._render_chat(prompt)
            case TextPrompt(text=text):
                return self._tokenizer.encode_prompt(text)
            case TokenPrompt(token_ids=token_ids):
                self.check_ids(token_ids, param="prompt")
                return list(token_ids)
            case _:
                assert_never(prompt)

    async def arender(self, prompt: Prompt) -> list[int]:
        """`render`, in a thread when the prompt is long."""
        if prompt_characters(prompt) < LONG_PROMPT_CHARACTERS:
            return self.render(prompt)
        return await asyncio.to_thread(self.render, prompt)

    def encode(self, text: str) -> list[int]:
        """The ids of a text to embed, with the tokenizer's own special tokens around it."""
        return self._tokenizer.encode_text(text)

    async def aencode(self, inputs: Sequence[str | Sequence[int]]) -> list[list[int]]:
        """`encode` of each text, ids as they are; in a thread when there is much of it."""
        if sum(len(one) for one in inputs if isinstance(one, str)) < LONG_PROMPT_CHARACTERS:
            return self._encode_all(inputs)
        return await asyncio.to_thread(self._encode_all, inputs)

    def check_ids(self, token_ids: Iterable[int], *, param: str) -> None:
        """Raises: InvalidRequest for an id outside the vocabulary."""
        for one in token_ids:
            if not 0 <= one < self.vocabulary_size:
                raise InvalidRequest(
                    f"`{param}` holds token id {one}; this model's ids go from 0 to "
                    f"{self.vocabulary_size - 1}.",
                    param=param,
                )

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`, which are checked already, special tokens included."""
        return self._tokenizer.vocabulary.decode(list(token_ids), skip_special_tokens=False)

    def decoder(self, choice: int, *, stop: tuple[str, ...], tools: bool) -> Decoder:
        """A decoder for one choice. Tool calls are looked for only when `tools` were offered."""
        parser: OutputParser = PlainParser(choice)
        if tools and self._parser == "hermes":
            parser = HermesParser(choice)
        return Decoder(Detokenizer(self._tokenizer.vocabulary, self._skipped), stop, parser)

    def _encode_all(self, inputs: Sequence[str | Sequence[int]]) -> list[list[int]]:
        return [self.encode(one) if isinstance(one, str) else list(one) for one in inputs]

    def _render_chat(self, prompt: ChatPrompt) -> list[int]:
        specials = self._tokenizer.specials
        guard = specials.shield
        try:
            messages = [self._message(message, guard) for message in prompt.messages]
            tools = [_tool(tool, guard) for tool in prompt.tools]
        except RecursionError as error:
            raise InvalidRequest(
                "The JSON in `tools` or in a tool call is nested too deeply.",
                param="tools" if prompt.tools else "messages",
            ) from error
        text = self._template.render(messages, tools) + guard(prompt.prefill)
        return self._tokenizer.encode_marked(specials.unshield(specials.mark(text)))

    def _message(self, message: Message, guard: Callable[[str], str]) -> dict[str, Any]:
        """The message as chat templates know it, every text of the caller guarded."""
        role: str = message.role
        if role == "developer" and not self._template.knows_developer:
            role = "system"
        rendered: dict[str, Any] = {"role": role, "content": guard(message.text)}
        if message.name is not None:
            rendered["name"] = guard(message.name)
        if message.tool_call_id is not None:
            rendered["tool_call_id"] = guard(message.tool_call_id)
        calls: list[dict[str, Any]] = []
        reasoning = ""
        for part in message.parts:
            match part:
                case ToolCallPart():
                    calls.append(_tool_call(part, guard))
                case ReasoningPart(text=text):
                    reasoning += text
                case TextPart():
                    pass
                case _:
                    assert_never(part)
        if calls:
            rendered["tool_calls"] = calls
        if reasoning:
            rendered["reasoning_content"] = guard(reasoning)
        return rendered


def prompt_characters(prompt: Prompt) -> int:
    """About how many characters there are to tokenise: what rendering costs."""
    match prompt:
        case ChatPrompt(messages=messages, tools=tools, prefill=prefill):
            parts = sum(len(_part_text(part)) for message in messages for part in message.parts)
            return len(prefill) + parts + sum(len(tool.description) + 500 for tool in tools)
        case TextPrompt(text=text):
            return len(text)
        case TokenPrompt():
            return 0
        case _:
            assert_never(prompt)


def _part_text(part: TextPart | ReasoningPart | ToolCallPart) -> str:
    return part.arguments if isinstance(part, ToolCallPart) else part.text


def _tool_call(part: ToolCallPart, guard: Callable[[str], str]) -> dict[str, Any]:
    """Arguments go in as an object, as templates expect; text that is no JSON object as it is."""
    try:
        arguments = orjson.loads(part.arguments)
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = part.arguments
    function = {"name": guard(part.name), "arguments": _guarded(arguments, guard)}
    return {"id": guard(part.id), "type": "function", "function": function}


def _tool(tool: Tool, guard: Callable[[str], str]) -> dict[str, Any]:
    function = {
        "name": guard(tool.name),
        "description": guard(tool.description),
        "parameters": _guarded(tool.parameters, guard),
    }
    return {"type": "function", "function": function}


def _guarded(value: Any, guard: Callable[[str], str]) -> Any:
    """`value` of JSON with every text in it guarded."""
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, Mapping):
        return {guard(str(key)): _guarded(one, guard) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded(one, guard) for one in value]
    return value
