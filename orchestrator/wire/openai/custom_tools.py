"""Custom tools, whose input is a text: a model knows each as a function of one text.

Chat and Responses offer them alike. Source: OpenAI API reference, custom tools.
"""

from __future__ import annotations

import json
import re

import orjson
from pydantic_core import from_json

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.messages import Tool

CUSTOM_INPUT = "input"
"""The one argument of the function that stands for a custom tool."""
_MAX_FORMAT = 64 * 1024
_HEAD = re.compile(r'\s*\{\s*"' + CUSTOM_INPUT + r'"\s*:\s*"')
_CUT_NAMES = "|".join('"' + CUSTOM_INPUT[:end] for end in range(len(CUSTOM_INPUT) + 1))
_CUT_HEAD = re.compile(r"\s*(?:\{\s*(?:" + _CUT_NAMES + '|"' + CUSTOM_INPUT + r'"\s*(?::\s*)?)?)?')
"""What may be there of the head where the arguments are cut before their text begins."""
_MAX_HEAD = 64
"""Arguments whose text does not begin within so many characters are read at their end."""
_WHOLE = re.compile(
    r'(?:[^"\\]'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}"
    r'|\\["\\/bfnrt])*'
)
"""Characters of a JSON text that are complete, halves of a surrogate pair kept together."""
_LONGEST_ESCAPE = 12


def custom_tool(
    name: str, description: str, *, where: str, syntax: str = "", grammar: str = ""
) -> Tool:
    """The function that stands for a custom tool.

    `grammar`, which stands at `where` in the body, is told to the model and not enforced.
    Raises: InvalidRequest where it is too long.
    """
    if len(grammar) > _MAX_FORMAT:
        raise InvalidRequest(
            f"`{where}` may have {_MAX_FORMAT} characters at most; it has {len(grammar)}.",
            param=where,
        )
    if grammar:
        description += f"\n\nThe input must follow this {syntax or 'its'} grammar:\n{grammar}"
    text = {"type": "string", "description": "The whole input of the tool, as plain text."}
    schema = {"type": "object", "properties": {CUSTOM_INPUT: text}, "required": [CUSTOM_INPUT]}
    return Tool(name, description.strip(), schema)


def input_arguments(text: str) -> str:
    """The arguments of the function that stands for a custom tool, for a call in the history."""
    return orjson.dumps({CUSTOM_INPUT: text}).decode()


def input_of(arguments: str) -> str:
    """The input of a call that is complete, or cut. The same as `InputText` makes of its pieces."""
    reader = InputText()
    return reader.feed(arguments) + reader.finish()


class InputText:
    """Turns the arguments of a call, as they are written, into the text in them.

    However the arguments are cut, the pieces add up to the same text. Arguments that are no object
    with that text, or are no JSON, are the text themselves; what begins such an object is none.
    """

    def __init__(self) -> None:
        self._raw = ""
        self._found: bool | None = None
        self._ended = False
        self.text = ""
        """What `feed` and `finish` have returned so far."""

    def feed(self, piece: str) -> str:
        """What `piece` adds to the text."""
        self._raw += piece
        if self._found is None:
            head = _HEAD.match(self._raw, 0, _MAX_HEAD)
            if head is not None:
                self._found, self._raw = True, self._raw[head.end() :]
            elif len(self._raw) >= _MAX_HEAD:
                self._found = False
        return self._more() if self._found and not self._ended else ""

    def finish(self) -> str:
        """What is still missing of the text when the arguments are complete, or cut."""
        if self._found:
            return ""
        rest = _text_in(self._raw)
        self.text += rest
        return rest

    def _more(self) -> str:
        more = ""
        while True:
            match = _WHOLE.match(self._raw)
            assert match is not None  # it matches nothing, too
            whole: str = json.loads(f'"{match.group()}"', strict=False)
            more += whole
            self._raw = self._raw[match.end() :]
            if self._raw.startswith('"'):
                self._ended = True
                break
            if len(self._raw) < _LONGEST_ESCAPE:
                break
            # An escape that JSON does not have, or half of a pair: it stands as it is written.
            more += self._raw[0]
            self._raw = self._raw[1:]
        self.text += more
        return more


def _text_in(arguments: str) -> str:
    """The text in arguments that are complete, or cut."""
    if _CUT_HEAD.fullmatch(arguments):
        return ""
    try:
        value = from_json(arguments, allow_partial="trailing-strings")
    except ValueError:
        return arguments
    if isinstance(value, dict) and isinstance(text := value.get(CUSTOM_INPUT), str):
        return text
    return value if isinstance(value, str) else arguments
