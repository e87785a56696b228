"""What a client of Gemini's sends. Source: Gemini API reference, models.generateContent.

Members may be written in camel case or in snake case, as in all of Google's JSON. Members that are
not listed are ignored. Where an array belongs, one object or text alone stands for an array of it,
as Google's own examples for the shell have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from orchestrator.core.errors import InvalidRequest
from orchestrator.http.bodies import BYTE_ORDER_MARK, BodyReader

T = TypeVar("T")


class FunctionCall(msgspec.Struct):
    """A call as a model made it."""

    name: str
    id: str | None = None
    args: dict[str, Any] | None = None


class FunctionResponse(msgspec.Struct):
    """What a function gave back."""

    name: str
    id: str | None = None
    response: dict[str, Any] | None = None


class ContentPart(msgspec.Struct, rename="camel"):
    """A part of a turn: one of its members. Only the first four can be taken."""

    text: str | None = None
    thought: bool | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    inline_data: Any = None
    file_data: Any = None
    executable_code: Any = None
    code_execution_result: Any = None
    tool_call: Any = None
    tool_response: Any = None


class Content(msgspec.Struct):
    """A turn. Without a role it is the user's."""

    parts: list[ContentPart] | ContentPart | None = None
    role: str | None = None


class FunctionDeclaration(msgspec.Struct, rename="camel"):
    """A function that the model may call, its parameters in one of two notations."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None


class ToolBody(msgspec.Struct, rename="camel"):
    """A set of tools. Those beside the functions run at Google."""

    function_declarations: list[FunctionDeclaration] | FunctionDeclaration | None = None
    google_search: Any = None
    google_search_retrieval: Any = None
    google_maps: Any = None
    code_execution: Any = None
    url_context: Any = None
    file_search: Any = None
    computer_use: Any = None
    mcp_servers: Any = None


class FunctionCallingConfig(msgspec.Struct, rename="camel"):
    """Whether functions may, must or must not be called, and which."""

    mode: str | None = None
    allowed_function_names: list[str] | str | None = None


class ToolConfig(msgspec.Struct, rename="camel"):
    """How tools are used."""

    function_calling_config: FunctionCallingConfig | None = None


class ThinkingConfig(msgspec.Struct, rename="camel"):
    """How much to think before the answer, and whether to show it."""

    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: str | None = None


class GenerationConfig(msgspec.Struct, rename="camel"):
    """How the answer is made. Numbers that count may be written as 40.0."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    max_output_tokens: int | None = None
    stop_sequences: list[str] | str | None = None
    candidate_count: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    response_modalities: list[str] | str | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    thinking_config: ThinkingConfig | None = None


class GenerateBody(msgspec.Struct, rename="camel", kw_only=True):
    """A request for content."""

    contents: list[Content] | Content
    system_instruction: Content | None = None
    generation_config: GenerationConfig | None = None
    tools: list[ToolBody] | ToolBody | None = None
    tool_config: ToolConfig | None = None
    cached_content: str | None = None


class CountBody(msgspec.Struct, rename="camel"):
    """A request to count tokens: of contents alone, or of a whole request."""

    contents: list[Content] | Content | None = None
    generate_content_request: GenerateBody | None = None


class EmbedBody(msgspec.Struct, rename="camel", kw_only=True):
    """A request for the vector of one text."""

    content: Content
    model: str | None = None
    output_dimensionality: int | None = None


class EmbedBatchBody(msgspec.Struct):
    """A request for the vectors of several texts."""

    requests: list[EmbedBody] | EmbedBody


_SNAKE = re.compile(rb'"[a-zA-Z]+_[a-zA-Z_]+"\s*:')
_FREE = frozenset(
    {
        "args",
        "response",
        "parameters",
        "parametersJsonSchema",
        "responseSchema",
        "responseJsonSchema",
    }
)
"""Members whose value is the caller's own JSON, or a schema, which is read elsewhere."""


class GeminiReader(Generic[T]):
    """Reads bodies of one kind, their members in either case."""

    def __init__(self, kind: type[T]) -> None:
        self._reader = BodyReader(kind)

    def read(self, body: bytes) -> T:
        """The checked body. Raises: InvalidRequest."""
        body = body.removeprefix(BYTE_ORDER_MARK)
        return self._reader.read(_in_camel_case(body) if _SNAKE.search(body) else body)


def listed(value: list[T] | T | None) -> list[T]:
    """`value` as the array that it is or stands for."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def given_members(body: msgspec.Struct) -> list[str]:
    """The members of `body` that the caller gave, by their names in JSON."""
    fields = msgspec.structs.fields(body)
    return [field.encode_name for field in fields if getattr(body, field.name) is not None]


def camel(name: str) -> str:
    """`name` in camel case; what is in it already stays as it is."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest) if first else name


def _in_camel_case(body: bytes) -> bytes:
    try:
        return msgspec.json.encode(_renamed(msgspec.json.decode(body)))
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Told by the reading proper.
        return body
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.") from error


def _renamed(value: Any) -> Any:
    if isinstance(value, Mapping):
        renamed = {camel(str(name)): one for name, one in value.items()}
        return {name: one if name in _FREE else _renamed(one) for name, one in renamed.items()}
    if isinstance(value, list):
        return [_renamed(one) for one in value]
    return value
