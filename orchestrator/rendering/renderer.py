"""Turns prompts into token ids, and token ids into text, for one model."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, assert_never

from pydantic_core import from_json

from orchestrator.contract.catalogue import Parser, Reasoning
from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Message, Part, ReasoningPart, TextPart, Tool, ToolCallPart
from orchestrator.core.request import (
    ChatPrompt,
    GenerationRequest,
    Prompt,
    ReasoningEffort,
    TextPrompt,
    TokenPrompt,
)
from orchestrator.rendering.chat_template import ChatTemplate
from orchestrator.rendering.decoder import Decoder
from orchestrator.rendering.detokenizer import Detokenizer
from orchestrator.rendering.files import load_files
from orchestrator.rendering.lengths import BYTES_A_TOKEN, Lengths
from orchestrator.rendering.output_parsers import (
    PARSER_TOKENS,
    RESULT_TOKENS,
    THINKING_TOKENS,
    output_parser,
)
from orchestrator.rendering.output_parsers.reasoning import Thinking
from orchestrator.rendering.texts import TextEncoder
from orchestrator.rendering.token_bytes import TokenBytes
from orchestrator.rendering.tokenizer import MAX_PIECE_CHARACTERS, PromptTokenizer
from orchestrator.rendering.turns import Turns

LONG_PROMPT_CHARACTERS = 4_000
"""From this length on, rendering takes about 1 ms or more (measured: 0.2 µs per character) and
should run in a thread, where the tokenizer runs without the GIL."""

_MISTRAL_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")

Ids = TypeVar("Ids", "list[int]", "array[int]")

_OBJECT = (dict, Mapping)  # `dict` first, because that check is fast

_TAIL_TOKENS = 16
"""This many ids at the end of a prompt always include the template's last marker."""


class Renderer:
    """The tokenizer, template and parsers of one model version. Immutable, thread-safe."""

    def __init__(self, directory: Path, *, parser: Parser, reasoning: Reasoning = "none") -> None:
        """Reads the tokenizer's files. Raises: RenderingError."""
        files = load_files(directory)
        markers = PARSER_TOKENS[parser] + (THINKING_TOKENS if reasoning == "think" else ())
        self._tokenizer = PromptTokenizer(files, (*markers, *RESULT_TOKENS[parser]))
        self._texts = TextEncoder(self._tokenizer)
        self._template = ChatTemplate(files.templates, files.named_tokens, directory)
        self._turns = Turns(self._template)
        self._parser: Parser = parser
        self._reasoning: Reasoning = reasoning
        self._token_bytes = TokenBytes(self._tokenizer.vocabulary)
        self._lengths = Lengths(self._tokenizer.vocabulary, self._token_bytes, self.vocabulary_size)
        vocabulary = self._tokenizer.vocabulary
        shown = {vocabulary.token_to_id(text) for text in markers}
        # Special tokens never appear in an answer, except those that the parser looks for.
        self._skipped = self._tokenizer.private_ids | (self._tokenizer.specials.ids - shown)

    @property
    def vocabulary_size(self) -> int:
        """One more than the highest id."""
        return self._tokenizer.size

    def fewest_tokens(self, prompt: Prompt, most: int) -> int:
        """The fewest tokens that `prompt` can have, in time proportional to its length.

        If the result is more than `most`, it may be lower than the best known bound. A prompt with
        more than `BYTES_A_TOKEN` characters per allowed token counts as too long in any case. Text
        that templates may drop is not counted: assistant messages, and white space around texts.
        """
        if isinstance(prompt, TokenPrompt):
            return len(prompt.token_ids)
        fewest = prompt_characters(prompt) // BYTES_A_TOKEN
        if fewest > most:
            return fewest
        match prompt:
            case ChatPrompt(messages=messages):
                if len(messages) > most:
                    return len(messages)
                texts = [
                    part.text
                    for message in messages
                    if message.role != "assistant"
                    for part in message.parts
                    if isinstance(part, TextPart)
                ]
                return max(len(messages), self._lengths.fewest("".join(texts), kept=False))
            case TextPrompt(text=text):
                return self._lengths.fewest(text)
            case _:
                assert_never(prompt)

    def fewest_tokens_of(self, text: str) -> int:
        """`fewest_tokens` for a text to embed."""
        return self._lengths.fewest(text)

    def render(
        self,
        prompt: Prompt,
        reasoning: ReasoningEffort | None = None,
        owner: str = "",
        most: int | None = None,
    ) -> array[int]:
        """The prompt's token ids, int32[n]. Raises: InvalidRequest, PromptTooLongError.

        A long prompt is rendered only until it has more than `most` ids. `reasoning` is passed to
        templates that use it; `None` leaves it to them. Parts of the prompt are cached for `owner`
        only, because the time reveals what was rendered before. A special token's text inside a
        message, or in any other value of a caller, is plain text. Only a `TextPrompt`, which is the
        whole prompt, may contain special tokens as text.
        """
        match prompt:
            case ChatPrompt():
                return self._render_chat(prompt, reasoning, owner, most)
            case TextPrompt(text=text, add_special_tokens=add_special_tokens):
                ids = self._tokenizer.encode_prompt(
                    text, add_special_tokens=add_special_tokens, most=most
                )
                return array("i", _within(most, ids, text))
            case TokenPrompt(token_ids=token_ids):
                self.check_ids(token_ids, param="prompt")
                return array("i", token_ids)
            case _:
                assert_never(prompt)

    def encode(self, text: str) -> list[int]:
        """The ids of a text to embed, with the tokenizer's own special tokens around it."""
        return self._texts.encode([text])[0]

    def encode_few(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for each text; the fastest way for a few short texts."""
        return self._texts.encode(texts)

    def encode_many(self, texts: Sequence[str]) -> Iterator[list[list[int]]]:
        """`encode` for many texts, in groups. For a thread: it mostly runs without the GIL."""
        return self._texts.encode_groups(texts)

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
        """The text of `token_ids`, special tokens included. The ids must have been checked."""
        return self._tokenizer.vocabulary.decode(list(token_ids), skip_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; they may not be whole characters."""
        return self._token_bytes.of(token_id)

    def decoder(
        self, choice: int, request: GenerationRequest, prompt_ids: Sequence[int]
    ) -> Decoder:
        """Makes a decoder for one choice of `request`, whose prompt has the ids `prompt_ids`."""
        thinking = self._thinking(request.prompt, prompt_ids)
        parser = output_parser(choice, request, self._parser, thinking)
        detokenizer = Detokenizer(self._tokenizer.vocabulary, self._skipped, self._token_bytes)
        return Decoder(detokenizer, request.stop, parser)

    def _thinking(self, prompt: Prompt, prompt_ids: Sequence[int]) -> Thinking:
        """Whether the answer begins with reasoning; the end of the prompt may have opened it.

        A plain text or a prefilled answer is continued without reasoning.
        """
        if self._reasoning == "none" or not isinstance(prompt, ChatPrompt) or prompt.prefill:
            return "no"
        tail = self.decode(prompt_ids[-_TAIL_TOKENS:]).rstrip()
        opening, closing = THINKING_TOKENS
        if tail.endswith(closing):
            return "no"
        return "yes" if tail.endswith(opening) else "undecided"

    def _render_chat(
        self,
        prompt: ChatPrompt,
        reasoning: ReasoningEffort | None,
        owner: str,
        most: int | None,
    ) -> array[int]:
        guard = self._tokenizer.specials.shield
        try:
            placed = self._turns.placed(prompt.messages)
            messages = [self._message(message, guard) for message in placed]
            tools: list[dict[str, Any]] = []
            if prompt.tools:
                remembered = _Guarded(guard).__getitem__
                tools = [_tool(tool, remembered) for tool in prompt.tools]
        except RecursionError as error:
            raise InvalidRequest(
                "The JSON in `tools` or in a tool call is nested too deeply.",
                param="tools" if prompt.tools else "messages",
            ) from error
        text = self._template.render(messages, tools, reasoning)
        if prompt.prefill:
            text += guard(prompt.prefill)
        if most is not None and len(text) > MAX_PIECE_CHARACTERS:
            fewest = self._lengths.fewest(text)
            if fewest > most:
                raise PromptTooLongError(fewest)
        return _within(most, self._tokenizer.encode_shielded(text, owner, most), text)

    def _message(self, message: Message, guard: Callable[[str], str]) -> dict[str, Any]:
        """The message in the form of chat templates, with every text of the caller guarded."""
        role: str = message.role
        if role == "developer" and not self._template.knows_developer:
            role = "system"
        parts = message.parts
        only = parts[0] if len(parts) == 1 else None
        is_plain = isinstance(only, TextPart)
        text = only.text if isinstance(only, TextPart) else message.text
        rendered: dict[str, Any] = {"role": role, "content": guard(text)}
        if message.name is not None:
            rendered["name"] = guard(message.name)
        if message.tool_call_id is not None:
            rendered["tool_call_id"] = guard(self._call_id(message.tool_call_id))
        return rendered if is_plain else rendered | self._beside_text(parts, guard)

    def _beside_text(self, parts: Sequence[Part], guard: Callable[[str], str]) -> dict[str, Any]:
        """The tool calls and reasoning of a message."""
        calls: list[dict[str, Any]] = []
        reasoning = ""
        for part in parts:
            match part:
                case ToolCallPart():
                    calls.append(self._tool_call(part, guard))
                case ReasoningPart(text=text):
                    reasoning += text
                case TextPart():
                    pass
                case _:
                    assert_never(part)
        beside: dict[str, Any] = {}
        if calls:
            beside["tool_calls"] = calls
        if reasoning:
            beside["reasoning_content"] = guard(reasoning)
        return beside

    def _tool_call(self, part: ToolCallPart, guard: Callable[[str], str]) -> dict[str, Any]:
        arguments = _guarded(self._arguments(part.arguments), guard)
        function = {"name": guard(part.name), "arguments": arguments}
        return {"id": guard(self._call_id(part.id)), "type": "function", "function": function}

    def _arguments(self, text: str) -> dict[str, Any] | str:
        """Arguments as the template accepts them: an object, as nearly all templates expect.

        Text that is not a JSON object stays text if the template accepts that. Otherwise it becomes
        an object of what can be read, so that no earlier call makes the next turn fail.
        """
        try:
            # Not orjson, which would round an integer of more than 64 bits.
            value = from_json(text, allow_inf_nan=False)
        except ValueError:
            value = None if text.strip() else {}
        if isinstance(value, dict):
            return value
        if self._turns.takes_text_arguments:
            return text
        try:
            value = from_json(text, allow_partial="trailing-strings")
        except ValueError:
            value = text
        return value if isinstance(value, dict) else {"input": value}

    def _call_id(self, call_id: str) -> str:
        """The id as the model's template accepts it: Mistral's needs nine letters or digits.

        Equal ids stay equal, so that a result still matches its call.
        """
        if self._parser != "mistral" or _MISTRAL_CALL_ID.fullmatch(call_id):
            return call_id
        return hashlib.sha256(call_id.encode()).hexdigest()[:9]


class PromptTooLongError(ValueError):
    """A prompt has too many tokens: at least `fewest`."""

    def __init__(self, fewest: int) -> None:
        super().__init__(f"at least {fewest} tokens")
        self.fewest = fewest


def _within(most: int | None, ids: Ids, text: str) -> Ids:
    """Returns `ids`, unless a long `text` has more than `most`. Raises: PromptTooLongError."""
    if most is not None and len(ids) > most and len(text) > MAX_PIECE_CHARACTERS:
        raise PromptTooLongError(len(ids))
    return ids


class _Guarded(dict[str, str]):
    """Caches guarded texts: in the schemas of tools the same few texts repeat."""

    def __init__(self, guard: Callable[[str], str]) -> None:
        super().__init__()
        self._guard = guard

    def __missing__(self, text: str) -> str:
        guarded = self[text] = self._guard(text)
        return guarded


_MESSAGE_CHARACTERS = 40
"""What an empty message, part or tool call costs, in characters of text that cost as much."""


def prompt_characters(prompt: Prompt) -> int:
    """The approximate number of characters to tokenise, as an estimate of the cost."""
    match prompt:
        case ChatPrompt(messages=messages, tools=tools, prefill=prefill):
            count = len(prefill)
            for message in messages:
                for part in message.parts:
                    count += len(part.arguments if isinstance(part, ToolCallPart) else part.text)
            for tool in tools:
                count += len(tool.description) + 500
            return count
        case TextPrompt(text=text):
            return len(text)
        case TokenPrompt(token_ids=token_ids):
            return len(token_ids)
        case _:
            assert_never(prompt)


def rendering_size(prompt: Prompt) -> int:
    """What it costs to render `prompt`, in characters of text that cost as much."""
    size = prompt_characters(prompt)
    if isinstance(prompt, ChatPrompt):
        size += _MESSAGE_CHARACTERS * sum([1 + len(one.parts) for one in prompt.messages])
    return size


def _tool(tool: Tool, guard: Callable[[str], str]) -> dict[str, Any]:
    function = {
        "name": guard(tool.name),
        "description": guard(tool.description),
        "parameters": _guarded(tool.parameters, guard),
    }
    return {"type": "function", "function": function}


def _guarded(value: Any, guard: Callable[[str], str]) -> Any:
    """A copy of the JSON `value` with every text guarded."""
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, _OBJECT):
        return {guard(str(key)): _guarded(one, guard) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded(one, guard) for one in value]
    return value
