"""Request bodies: JSON into a struct, or an error that names the field and what was given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec
import orjson
from pydantic_core import to_json

from orchestrator.core.errors import InvalidRequest

T = TypeVar("T")
StructT = TypeVar("StructT", bound=msgspec.Struct)

_PLACE = re.compile(r"^(?P<fault>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.+)`")
_STEP = re.compile(r"\.?(?P<name>[^.\[\]]+)|\[(?P<index>\d+)\]")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some writers of files on Windows begin with it; it means nothing in UTF-8."""
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
        """The checked body. Raises: InvalidRequest."""
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
        """The checked body, in which whole numbers may be written as `8.0`: JSON knows one number.

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
    """Reads bodies of one kind, a struct, in which every member must be a known one."""

    def __init__(self, kind: type[StructT]) -> None:
        super().__init__(kind)
        self._known = {member.encode_name for member in msgspec.structs.fields(kind)}

    def read(self, body: bytes) -> StructT:
        """The checked body. Raises: InvalidRequest, which names each member that is not known."""
        try:
            given = msgspec.json.decode(body.removeprefix(BYTE_ORDER_MARK))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Told by the reading proper.
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
    """A given value as an error message shows it: as JSON, and not endless.

    Of one that no JSON can be made of again, as it is nested too deeply, only the kind is shown.
    """
    if isinstance(value, str) and len(value) > _MAX_SHOWN:
        value = value[: _MAX_SHOWN + 1]
    try:
        text = msgspec.json.encode(value).decode("utf-8")
    except (RecursionError, OverflowError, ValueError, msgspec.MsgspecError):
        return f"a value of type {_KINDS.get(type(value), 'unknown')}"
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def json_text(value: object, where: str) -> str:
    """What a caller gave at `where` as JSON text, which orjson can write again.

    Raises: InvalidRequest.
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(
            f"`{where}` holds a number of more than 64 bits, or is nested more than 254 deep.",
            param=where,
        ) from error


def history_text(value: object, where: str) -> str:
    """`json_text` of a former call or result, which may hold what any model or tool wrote.

    Integers may have any size: a conversation goes on with them. Raises: InvalidRequest.
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        try:
            return to_json(value, inf_nan_mode="null").decode()
        except ValueError as error:
            raise InvalidRequest(f"`{where}` is nested more than 254 deep.", param=where) from error


def check_range(name: str, value: float | None, low: float, high: float) -> None:
    """Raises: InvalidRequest when `value` is given and not within `low` and `high`."""
    if value is not None and not low <= value <= high:
        raise InvalidRequest(
            f"`{name}` must be between {_number(low)} and {_number(high)};"
            f" {_number(value)} was given.",
            param=name,
        )


def check_at_least(name: str, value: float | None, low: int) -> None:
    """Raises: InvalidRequest when `value` is given and below `low`."""
    if value is not None and value < low:
        raise InvalidRequest(
            f"`{name}` must be at least {low}; {_number(value)} was given.", param=name
        )


def _number(value: float) -> str:
    """A number as messages show it: to the last digit, and without a fraction that is none."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < _MAX_WHOLE
    return shown(int(value) if is_whole else value)


def _with_whole_numbers(value: Any) -> Any:
    """`value` of JSON with every number that has no fraction as a whole one."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _MAX_WHOLE else value
    if isinstance(value, dict):
        return {name: _with_whole_numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(one) for one in value]
    return value


def _wrong_field(message: str, body: bytes) -> InvalidRequest:
    """The library's message, with the field's name in front and the value given behind."""
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
    """The value at `path`, or `None` when the path does not say which one it is.

    `None` too when there is no reading it.
    """
    if "[...]" in path:
        return None
    try:
        value: Any = msgspec.json.decode(body)
        for step in _STEP.finditer(path):
            value = value[step["name"] if step["name"] is not None else int(step["index"])]
    except (msgspec.MsgspecError, RecursionError, ValueError, LookupError, TypeError):
        # There or elsewhere: a number that no type can hold, nesting without end, bytes that are
        # no UTF-8. What is wrong is known without it.
        return None
    return value
