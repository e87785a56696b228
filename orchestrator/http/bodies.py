"""Reads request bodies: JSON into a struct, or an error that names the field and its value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from orchestrator.core.errors import InvalidRequest
from orchestrator.responses.values import as_text

T = TypeVar("T")
StructT = TypeVar("StructT", bound=msgspec.Struct)

_PLACE = re.compile(r"^(?P<fault>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.+)`")
_STEP = re.compile(r"\.?(?P<name>[^.\[\]]+)|\[(?P<index>\d+)\]")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some Windows programs write it at the start of a file; it has no meaning in UTF-8."""
_WHOLE_AS_FLOAT = "got `float`"
_MAX_SHOWN = 60
_KINDS: Mapping[type, str] = {dict: "object", list: "array", str: "string", int: "number"}
_MAX_WHOLE = 1e15


class BodyReader(Generic[T]):
    """Reads bodies of one kind."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, body: bytes) -> T:
        """Decodes and checks the body. Raises: InvalidRequest."""
        body = body.removeprefix(BYTE_ORDER_MARK)
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            if _WHOLE_AS_FLOAT in str(error):
                return self._read_whole_numbers(body)
            raise _wrong_field(str(error), body) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            what = "is empty" if not body.strip() else f"is not valid JSON: {error}"
            raise InvalidRequest(f"The request body {what}.".replace("..", ".")) from error
        except RecursionError as error:
            raise InvalidRequest("The request body is nested too deeply.") from error

    def _read_whole_numbers(self, body: bytes) -> T:
        """Reads a body with whole numbers written as `8.0`: JSON has one type of number.

        Raises: InvalidRequest.
        """
        try:
            return msgspec.convert(_with_whole_numbers(msgspec.json.decode(body)), self._kind)
        except msgspec.ValidationError as error:
            raise _wrong_field(str(error), body) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"The request body is not valid JSON: {error}.") from error
        except RecursionError as error:
            raise InvalidRequest("The request body is nested too deeply.") from error


class StrictBodyReader(BodyReader[StructT]):
    """Reads bodies of one kind, a struct, and refuses unknown members."""

    def __init__(self, kind: type[StructT]) -> None:
        super().__init__(kind)
        self._known = {member.encode_name for member in msgspec.structs.fields(kind)}

    def read(self, body: bytes) -> StructT:
        """Decodes and checks the body. Raises: InvalidRequest, which names the unknown members."""
        try:
            given = msgspec.json.decode(body.removeprefix(BYTE_ORDER_MARK))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # `super().read` below reports this fault.
            given = None
        names = given if isinstance(given, dict) else {}
        unknown = [name for name in names if name not in self._known]
        if unknown:
            told = ", ".join(f"`{name[:_MAX_SHOWN]}`" for name in unknown[:_MAX_SHOWN])
            raise InvalidRequest(
                f"There is no member {told}; known are "
                f"{', '.join(f'`{name}`' for name in sorted(self._known))}.",
                param=unknown[0],
            )
        return super().read(body)


def shown(value: object) -> str:
    """A given value as an error message shows it: as JSON, shortened to a max length.

    If the value cannot be encoded, for example because it is nested too deeply, only its type is
    shown.
    """
    if isinstance(value, str) and len(value) > _MAX_SHOWN:
        value = value[: _MAX_SHOWN + 1]
    try:
        text = msgspec.json.encode(value).decode("utf-8")
    except (RecursionError, OverflowError, ValueError, msgspec.MsgspecError):
        return f"a value of type {_KINDS.get(type(value), 'unknown')}"
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def json_text(value: object, where: str) -> str:
    """Encodes what a caller gave at `where` as JSON text. Integers may have any size.

    Raises: InvalidRequest.
    """
    try:
        return as_text(value)
    except ValueError as error:
        raise InvalidRequest(f"`{where}` is nested more than 254 deep.", param=where) from error


def check_range(name: str, value: float | None, low: float, high: float) -> None:
    """Raises: InvalidRequest if `value` is given and not between `low` and `high`."""
    if value is not None and not low <= value <= high:
        raise InvalidRequest(
            f"`{name}` must be between {_number(low)} and {_number(high)};"
            f" {_number(value)} was given.",
            param=name,
        )


def check_at_least(name: str, value: float | None, low: int) -> None:
    """Raises: InvalidRequest if `value` is given and below `low`."""
    if value is not None and value < low:
        raise InvalidRequest(
            f"`{name}` must be at least {low}; {_number(value)} was given.", param=name
        )


def _number(value: float) -> str:
    """A number as messages show it: with all digits, and without a fraction that is zero."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < _MAX_WHOLE
    return shown(int(value) if is_whole else value)


def _with_whole_numbers(value: Any) -> Any:
    """A copy of the JSON `value` in which floats without a fraction are integers."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _MAX_WHOLE else value
    if isinstance(value, dict):
        return {name: _with_whole_numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(one) for one in value]
    return value


def _wrong_field(message: str, body: bytes) -> InvalidRequest:
    """The library's message, with the field's name before it and the given value after it."""
    place = _PLACE.match(message)
    assert place is not None  # every text matches
    fault, path = place["fault"], (place["path"] or "").lstrip(".")
    if (missing := _MISSING.fullmatch(fault)) is not None:
        name = f"{path}.{missing['name']}" if path else missing["name"]
        return InvalidRequest(f"`{name}` is required.", param=name)
    fault = fault[:1].lower() + fault[1:]
    if not path:
        return InvalidRequest(f"The request body is wrong: {fault}.")
    given = _value_at(path, body)
    behind = "" if given is None else f"; {shown(given)} was given"
    return InvalidRequest(f"`{path}` is wrong: {fault}{behind}.", param=path)


def _value_at(path: str, body: bytes) -> Any:
    """The value at `path`; `None` if the path is ambiguous or the body cannot be read."""
    if "[...]" in path:
        return None
    try:
        value: Any = msgspec.json.decode(body)
        for step in _STEP.finditer(path):
            value = value[step["name"] if step["name"] is not None else int(step["index"])]
    except (msgspec.MsgspecError, RecursionError, ValueError, LookupError, TypeError):
        # Somewhere in the body: a number too large for any type, too deep nesting, or bytes that
        # are not UTF-8. The message is clear without the value.
        return None
    return value
