"""Chat templates: Jinja as Hugging Face runs it, in a sandbox.

Templates come with a model and are trusted as much as the model. The sandbox prevents access to
Python objects; it does not stop a template that wastes time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.request import ReasoningEffort
from orchestrator.rendering.files import RenderingError
from orchestrator.rendering.sandbox import Sandbox

logger = logging.getLogger(__name__)

_SWITCHES = ("enable_thinking", "thinking")
"""Names of the thinking switch: Qwen and SmolLM use the first, DeepSeek and Granite the second."""


_PLAIN_JSON = json.JSONEncoder(ensure_ascii=False)
"""The default of `tojson`. It is shared: making an encoder costs more than encoding a tool."""


class ChatTemplate:
    """The templates of one model. Immutable, thread-safe."""

    def __init__(
        self, sources: Mapping[str, str], tokens: Mapping[str, str], directory: Path
    ) -> None:
        environment = _environment()
        try:
            self._templates = {
                name: environment.from_string(source) for name, source in sources.items()
            }
            for template in self._templates.values():
                # Jinja copies its own chain of dictionaries for every prompt, which is slow.
                template.globals = dict(template.globals)
            self._free = {
                name: meta.find_undeclared_variables(environment.parse(source))
                for name, source in sources.items()
            }
        except jinja2.TemplateSyntaxError as error:
            where = f"{directory}: chat template, line {error.lineno}"
            raise RenderingError(f"{where}: {error.message}") from error
        if sources and "default" not in sources:
            raise RenderingError(f"{directory}: no chat template is named `default`")
        self._tokens = dict(tokens)
        self._takes_tools = any("tools" in names for names in self._free.values())
        self.knows_developer = any("developer" in source for source in sources.values())

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        reasoning: ReasoningEffort | None = None,
    ) -> str:
        """Renders the conversation, up to the assistant's next turn. Raises: InvalidRequest."""
        if not self._templates:
            raise InvalidRequest(
                "This model has no chat template; it cannot take `messages`.", param="messages"
            )
        if tools and not self._takes_tools:
            raise InvalidRequest("This model cannot call tools.", param="tools")
        try:
            return self._render(messages, tools, reasoning)
        except _RaisedByTemplateError as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error.message}",
                param="messages",
            ) from error
        # A template is code from the model's makers: any error of it is about these messages.
        except Exception as error:
            # The error's text is not logged, because it may quote the messages.
            logger.warning("a chat template failed: %s", type(error).__name__)
            raise InvalidRequest(
                "The model's chat template cannot render these messages.", param="messages"
            ) from error

    def attempt(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """Renders the conversation; `None` if the template does not accept it."""
        if not self._templates:
            return None
        try:
            return self._render(messages, (), None)
        # As in `render`; but here a failure is a valid result.
        except Exception:
            return None

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        reasoning: ReasoningEffort | None,
    ) -> str:
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        template = self._templates[name]
        known = {
            **template.globals,
            **self._tokens,
            "messages": messages,
            "tools": list(tools) or None,
            "documents": None,
            "add_generation_prompt": True,
        }
        if reasoning is not None:
            known |= _thinking(reasoning, self._free[name])
        # The same as `Template.render`, without the rewritten traceback, which is not shown.
        return "".join(template.root_render_func(template.new_context(known, shared=True)))


def _thinking(reasoning: ReasoningEffort, known: Set[str]) -> dict[str, object]:
    """The values of `reasoning` for the variables that the template uses."""
    wishes: dict[str, object] = dict.fromkeys(_SWITCHES, reasoning != "none")
    if reasoning != "none":
        wishes["reasoning_effort"] = reasoning
    return {name: wish for name, wish in wishes.items() if name in known}


class _RaisedByTemplateError(jinja2.TemplateError):
    """The template called `raise_exception`; the message is its own."""


class _Generation(Extension):
    """Accepts `{% generation %}` … `{% endgeneration %}`, which marks training text; no effect."""

    tags = {"generation"}  # noqa: RUF012  # the attribute as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> Sandbox:
    """The Jinja environment of Hugging Face.

    Source: `transformers.utils.chat_template_utils`, `_compile_jinja_template`.
    """
    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Encodes JSON as models were trained on it: no HTML escapes, no ASCII escapes."""
    if indent is None and separators is None and not ensure_ascii and not sort_keys:
        return _PLAIN_JSON.encode(value)
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> NoReturn:
    raise _RaisedByTemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now(tz=UTC).strftime(pattern)
